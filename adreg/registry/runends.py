"""The end of a run that the registry did not hear of: its process died when the adapter lay whole in its folder already.

Knows the folder's own record, not how runs are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adreg.errors import StorageError
from adreg.formats.adapters.adapter import RECORD, WEIGHTS
from adreg.formats.digests import file_sha256

ENDED = ("finished", "stopped early")
TOLD = (
    "outcome", "reason", "finished", "seconds", "steps", "tokens", "trained_tokens", "weights", "eval", "warnings", "samples",
    "evaluations", "losses",
)  # fmt: skip


def written_end(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the folder that the run was to write says of its end; None where it is no folder of this run, or not whole."""
    output = (record.get("process") or {}).get("output")
    if not output:
        return None
    try:
        told = json.loads((Path(output) / RECORD).read_text(encoding="utf-8"))
        if told["id"] != record["id"] or told["outcome"] not in ENDED:
            return None
        if told["weights"] != f"sha256:{file_sha256(Path(output) / WEIGHTS)}":
            return None
    except (OSError, StorageError, ValueError, KeyError, TypeError):
        return None
    return {name: told[name] for name in TOLD if name in told}
