"""Push: an adapter folder becomes an immutable version. Planned first, audited, blobs first, the row last."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from adreg.errors import FormatError
from adreg.formats.adapter import CONFIG, WEIGHTS, Adapter, open_adapter
from adreg.formats.fingerprint import BaseIds
from adreg.formats.strictjson import JsonObject, read_object
from adreg.formats.tokenizer import FILES as TOKENIZER_FILES

RECORD = "adreg.json"
STORED = (CONFIG, WEIGHTS, RECORD, "README.md", "LICENSE", "loss.svg", *TOKENIZER_FILES)
RECORD_LIMIT = 50_000_000
RUN_FIELDS = {"id": str, "started": str, "outcome": str, "base": dict, "data": list, "losses": list, "eval": dict}
OPTIONAL_IDS = ("tok_id", "tpl_id")


@dataclass(frozen=True)
class PushPlan:
    """What a push would store: `files` by name, and `skipped`, what lies there and is left out."""

    folder: Path
    adapter: Adapter
    files: tuple[Path, ...]
    skipped: tuple[str, ...]
    run: JsonObject | None
    trained_on: BaseIds | None


def plan_push(folder: Path) -> PushPlan:
    """Look at the adapter in `folder` and decide what belongs to it. Raises `NotFoundError` or `FormatError`."""
    adapter = open_adapter(folder)
    names = sorted(path.name for path in folder.iterdir())
    files = tuple(folder / name for name in names if name in STORED)
    for file in files:
        if file.is_symlink() or not file.is_file():
            raise FormatError(file, "is not a regular file; copy the file itself", "F-DIR-1")
    skipped = tuple(name for name in names if name not in STORED)
    record = read_object(folder / RECORD, "K-CFG-1", RECORD_LIMIT) if folder / RECORD in files else None
    return PushPlan(folder, adapter, files, skipped, _recorded_run(folder, record), _recorded_base(folder, record))


def _recorded_run(folder: Path, record: JsonObject | None) -> JsonObject | None:
    """The record as that of a run, or None when it is none. Raises `FormatError` when it only looks like one."""
    if record is None or "id" not in record:
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
        raise FormatError(folder / RECORD, f"is no run record: {', '.join(wrong)} is not what it should be", "K-CFG-1")
    return record


def _recorded_base(folder: Path, record: JsonObject | None) -> BaseIds | None:
    """The ids that the training recorded in adreg.json, or None."""
    stored = (record or {}).get("base")
    if not isinstance(stored, dict):
        return None
    ids: dict[str, Any] = {name: stored.get(name) for name in BaseIds.__dataclass_fields__}
    if not all(_is_id(value) or (value is None and name in OPTIONAL_IDS) for name, value in ids.items()):
        raise FormatError(folder / RECORD, "its base ids are not hashes", "K-CFG-1")
    return BaseIds(**ids)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("b3:[0-9a-f]{64}", value) is not None


def summarize(adapter: Adapter, evidence: str) -> dict[str, Any]:
    """What `ls` and `show` tell of a version. `evidence` says how its base is known: recorded, declared or none."""
    kinds = sorted({module.name.rpartition(".")[2] for module in adapter.modules})
    return {
        "rank": adapter.ranks[-1] if adapter.ranks else 0,
        "alpha": adapter.config.alpha,
        "rslora": adapter.config.rslora,
        "targets": kinds,
        "modules": len(adapter.modules),
        "parameters": adapter.parameters,
        "dtype": "/".join(sorted({module.a.dtype for module in adapter.modules})),
        "base_claim": adapter.config.base_name,
        "evidence": evidence,
    }
