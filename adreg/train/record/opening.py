"""The record of a run at its first second, and what of a record may leave this machine. Knows no registry and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adreg.train.config import TrainConfig
from adreg.train.record import environment
from adreg.train.record.record import RunRecord, config_id, new_id, now

PRIVATE = ("process",)


def opening_record(
    base: Mapping[str, Any], config: TrainConfig, recipe: str | None = None, parent: Mapping[str, Any] | None = None
) -> RunRecord:
    """A run that begins now: `base` is its name and ids, `parent` the reference and digest of a continued adapter.

    What is known later (data, rows, trainable, the platform's settings) is put in with `dataclasses.replace`.
    """
    settings = config.model_dump(mode="json")
    return RunRecord(
        id=new_id(),
        started=now(),
        base=dict(base),
        config=settings,
        config_id=config_id(settings),
        recipe=recipe,
        parent=dict(parent) if parent else None,
        seed=config.train.seed,
        code=environment.code(Path.cwd()),
        versions=environment.versions(),
        platform=environment.machine(),
        process=environment.process(),
    )


def published(record: Mapping[str, Any]) -> dict[str, Any]:
    """`record` as it goes into the adapter's folder: paths are reduced to names, and no process is named."""
    shown = {name: value for name, value in record.items() if name not in PRIVATE}
    shown["data"] = [{**file, "path": _name(file.get("path"))} for file in record.get("data", [])]
    config = dict(record.get("config", {}))
    if "data" in config:
        data = dict(config["data"])
        config["data"] = data | {name: _sources(data[name]) for name in ("train", "eval") if name in data}
    shown["config"] = config | {"parent": _reference(config["parent"])} if config.get("parent") else config
    if parent := record.get("parent"):
        shown["parent"] = {name: _reference(value) for name, value in parent.items()}
        if parent.get("digest"):
            named = str(_reference(parent.get("reference")))
            shown["parents"] = [{"digest": parent["digest"], "reference": named, "relation": "continued"}]
    return shown


def _sources(value: Any) -> Any:
    return [{**source, "path": _name(source.get("path"))} for source in value] if isinstance(value, list) else value


def _reference(value: Any) -> Any:
    """A folder's name; a reference to a registered adapter as it is."""
    return _name(value) if isinstance(value, str) and value.startswith(("/", ".", "~")) else value


def _name(path: Any) -> str:
    return Path(str(path)).name
