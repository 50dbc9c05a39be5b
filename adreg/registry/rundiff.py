"""What differs between runs: configuration, data, base, code, environment, and how they ended. Knows records only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adreg.registry.fields import Section, differing, flat, pairs

Record = Mapping[str, Any]
PATHS = ("data.train", "data.eval")
OUTCOMES = ("outcome", "reason", "steps", "tokens", "trained_tokens", "seconds", "trainable", "weights")


def diff_runs(a: Record, b: Record) -> dict[str, Section]:
    """By section the fields that differ; `outcome` holds all of its fields, so that they can be read side by side."""
    changed = differing({name: pairs(section(a), section(b)) for name, section in SECTIONS.items()})
    result = {key: pair for key, pair in pairs(_outcome(a), _outcome(b)).items() if pair != (None, None)}
    return {**changed, "outcome": result}


def setting_apart(records: Sequence[Record]) -> list[dict[str, Any]]:
    """For each of several runs, the settings, data and base in which not all are alike."""
    told = [{**_settings(record), **_data(record), **_base(record)} for record in records]
    names = list(dict.fromkeys(name for one in told for name in one))
    differing = [name for name in names if any(one.get(name) != told[0].get(name) for one in told)]
    return [{name.rpartition(".")[2]: one.get(name) for name in differing} for one in told]


def _settings(record: Record) -> dict[str, Any]:
    config = record.get("config")
    values = flat(config) if isinstance(config, dict) else ()
    own = {name: value for name, value in values if name not in PATHS and name != "description"}
    return {**own, **({"recipe": record["recipe"]} if record.get("recipe") else {})}


def _data(record: Record) -> dict[str, Any]:
    """Each data file by its name: digest and rows."""
    files = [file for file in record.get("data") or [] if isinstance(file, dict)]
    return {
        Path(
            str(file.get("path"))
        ).name: f"{str(file.get('sha256') or '-')[:12]}, {file.get('used')} of {file.get('rows')} rows"
        for file in files
    }


def _base(record: Record) -> dict[str, Any]:
    base = record.get("base")
    return {f"base.{name}": value for name, value in base.items()} if isinstance(base, dict) else {}


def _parent(record: Record) -> dict[str, Any]:
    parent = record.get("parent")
    return dict(parent) if isinstance(parent, dict) else {}


def _code(record: Record) -> dict[str, Any]:
    code = record.get("code")
    return dict(code) if isinstance(code, dict) else {}


def _environment(record: Record) -> dict[str, Any]:
    parts = [record.get(name) for name in ("versions", "platform")]
    return {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}


def _outcome(record: Record) -> dict[str, Any]:
    scores, losses = record.get("eval"), record.get("losses") or []
    told = {name: record.get(name) for name in OUTCOMES}
    last = losses[-1] if losses else record.get("last")
    told["last loss"] = last[1] if isinstance(last, list | tuple) and len(last) > 1 else None
    scores = scores if isinstance(scores, dict) else {}
    told |= {"held-out before": scores.get("base"), "held-out after": scores.get("adapter")}
    return told


SECTIONS = {
    "settings": _settings,
    "data": _data,
    "base": _base,
    "parent": _parent,
    "code": _code,
    "environment": _environment,
}
