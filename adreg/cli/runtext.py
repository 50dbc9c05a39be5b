"""A run's record in words. Records come from elsewhere too: whatever is not as adreg writes it is told as a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]


def part(record: Record, name: str) -> dict[str, Any]:
    """The object that `record` has under `name`, or an empty one."""
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def number_of(value: Any) -> float | None:
    """`value` where it is a number."""
    plain = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if plain else None


def figure(value: Any, digits: int = 3) -> str:
    found = number_of(value)
    return "-" if found is None else f"{found:.{digits}f}"


def data_names(record: Record) -> list[str]:
    """The names of the data files."""
    files = record.get("data")
    return [Path(str(file.get("path"))).name for file in files if isinstance(file, dict)] if isinstance(files, list) else []


def steps_told(record: Record) -> str:
    """The steps that were done, of those planned where that is more."""
    last, planned = record.get("last"), number_of(record.get("planned_steps")) or 0
    done = number_of(record.get("steps")) or (number_of(last[0]) if isinstance(last, list) and last else None) or 0
    if record.get("losses"):
        done = max(done, number_of(record["losses"][-1][0]) or 0)
    return f"{done:.0f}/{planned:.0f}" if planned > done else f"{done:.0f}"


def last_loss(record: Record) -> str:
    """The loss of the last step."""
    last = record.get("last")
    return figure(last[1]) if isinstance(last, list) and len(last) > 1 else "-"


def held_out(record: Record) -> str:
    """The loss on the held-out rows before and after."""
    scores = part(record, "eval")
    before, after = number_of(scores.get("base")), number_of(scores.get("adapter"))
    if before is None and after is None:
        return "-"
    return f"{figure(before)} → {figure(after)}" if before is not None else figure(after)


def perplexity(loss: float | None) -> str:
    return "-" if loss is None else f"{math.exp(loss):.4g}" if loss < 50 else "∞"


def stop_rates(record: Record) -> tuple[str, str] | None:
    """How many of the answers ended by themselves, before and after; None where that is not known."""
    samples = [sample for sample in record.get("samples") or [] if isinstance(sample, list | tuple) and len(sample) == 5]
    if not samples:
        return None
    before, after = ([sample[place] for sample in samples if sample[place] is not None] for place in (3, 4))
    return (_share(before), _share(after)) if before or after else None


def _share(ended: list[Any]) -> str:
    return f"{sum(map(bool, ended))} of {len(ended)}" if ended else "-"


def duration(seconds: float | None) -> str:
    """A time for people: 86 s, 12 min, 3.2 h."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
