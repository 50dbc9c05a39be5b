"""Push: an adapter folder becomes an immutable version. Planned first, audited, blobs first, the row last."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from adreg.errors import FormatError
from adreg.formats.adapters.adapter import CONFIG, RECORD, WEIGHTS
from adreg.formats.adapters.inspection import Inspection, inspect_files, inspect_folder
from adreg.formats.bases.fingerprint import BaseIds
from adreg.formats.digests import file_sha256
from adreg.formats.safetensors import SafetensorsFile
from adreg.formats.strictjson import JsonObject, read_object
from adreg.formats.text.tokenizer import FILES as TOKENIZER_FILES
from adreg.registry.manifest import FileEntry, Parent, base_ids, read_parents, version_digest

STORED = (CONFIG, WEIGHTS, RECORD, "README.md", "LICENSE", "loss.svg", *TOKENIZER_FILES)
RECORD_LIMIT = 50_000_000
RUN_FIELDS = {"id": str, "started": str, "outcome": str, "base": dict, "data": list, "losses": list, "eval": dict}


@dataclass(frozen=True)
class PushPlan:
    """What a push would store: `files` by name, and `skipped`, what lies there and is left out."""

    folder: Path
    files: dict[str, Path]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Content:
    """What the files of a version say: the adapter, sound and of a known family, the run and base that training
    recorded, and its parents."""

    inspection: Inspection
    weights: SafetensorsFile
    run: JsonObject | None
    trained_on: BaseIds | None
    parents: tuple[Parent, ...]


def plan_push(folder: Path) -> PushPlan:
    """Look at the adapter in `folder`, of whatever family, and decide what belongs to it.

    Raises `NotFoundError`, `FormatError`, or `UnsupportedError` for a type that nobody knows.
    """
    inspect_folder(folder).sound_file()
    names = sorted(path.name for path in folder.iterdir())
    files = {name: folder / name for name in names if name in STORED}
    for file in files.values():
        if file.is_symlink() or not file.is_file():
            raise FormatError(file, "is not a regular file; copy the file itself", "F-DIR-1")
    read_content(files)
    return PushPlan(folder, files, tuple(name for name in names if name not in STORED))


def read_content(files: Mapping[str, Path]) -> Content:
    """Read the files of a version, wherever they lie. Raises `FormatError` for names and records that cannot be."""
    odd = sorted(set(files) - set(STORED))
    if odd or not {CONFIG, WEIGHTS} <= set(files):
        raise FormatError(files.get(CONFIG, Path(CONFIG)), f"an adapter holds {CONFIG} and {WEIGHTS}, not {odd}", "F-DIR-2")
    inspection = inspect_files(files)
    path = files.get(RECORD)
    record = read_object(path, "K-CFG-1", RECORD_LIMIT) if path else {}
    source = str(path)
    return Content(
        inspection=inspection,
        weights=inspection.sound_file(),
        run=_recorded_run(source, record),
        trained_on=_recorded_base(source, record),
        parents=read_parents(record.get("parents", []), source),
    )


def _recorded_run(source: str, record: JsonObject) -> JsonObject | None:
    """The record as that of a run, or None when it is none. Raises `FormatError` when it only looks like one."""
    if "id" not in record:
        return None
    wrong = [name for name, kind in RUN_FIELDS.items() if not isinstance(record.get(name), kind)]
    if not wrong and not re.fullmatch(r"[0-9A-Za-z-]{6,64}", record["id"]):
        wrong = ["id"]
    if not wrong and not all(isinstance(file, dict) for file in record["data"]):
        wrong = ["data"]
    try:
        datetime.fromisoformat(str(record.get("started")))
    except ValueError:
        wrong.append("started")
    if wrong:
        raise FormatError(source, f"is no run record: {', '.join(wrong)} is not what it should be", "K-CFG-1")
    return record


def _recorded_base(source: str, record: JsonObject) -> BaseIds | None:
    """The ids that the training recorded in adreg.json, or None."""
    base = record.get("base")
    if not isinstance(base, dict):
        return None
    return base_ids({name: base.get(name) for name in BaseIds.__dataclass_fields__}, source)


def read_trained_on(folder: Path) -> BaseIds | None:
    """The ids of the base that the training of the adapter in `folder` recorded, or None; looks at nothing else there."""
    path = folder / RECORD
    return _recorded_base(str(path), read_object(path, "K-CFG-1", RECORD_LIMIT)) if path.is_file() else None


def folder_digest(folder: Path) -> str:
    """The digest that a push of the adapter in `folder` gives to its version, where its own record names its base."""
    files = plan_push(folder).files
    entries = {name: FileEntry(f"sha256:{file_sha256(path)}", path.stat().st_size) for name, path in files.items()}
    return version_digest(entries, read_trained_on(folder))


def summarize(content: Content, evidence: str, tensors: str) -> dict[str, Any]:
    """What `ls` and `show` tell of a version. `evidence` says how its base is known: recorded, declared or none;
    `tensors` is the id of its tensors. Rank and alpha are 0 where its family has none."""
    raw, adapter, family = content.inspection.raw, content.inspection.adapter, content.inspection.family
    views, claim = family.trained, raw.get("base_model_name_or_path")
    return {
        "family": family.kind.value,
        "rank": max(adapter.ranks, default=0) if adapter else _number(raw, "init_r", "r"),
        "alpha": adapter.config.alpha if adapter else _number(raw, "lora_alpha", "alpha"),
        "rslora": raw.get("use_rslora") is True,
        "targets": sorted({module.rpartition(".")[2] for module in family.modules}),
        "modules": len(family.modules),
        "parameters": sum(view.count for view in views),
        "dtype": "/".join(sorted({view.dtype for view in views})),
        "base_claim": claim if isinstance(claim, str) and claim else None,
        "evidence": evidence,
        "tensors": tensors,
    }


def _number(raw: JsonObject, *fields: str) -> int | float:
    """The first of `fields` that is a number above 0, or else 0; not every family's values are checked."""
    found = (raw.get(field) for field in fields)
    return next((value for value in found if isinstance(value, int | float) and value is not True and value > 0), 0)
