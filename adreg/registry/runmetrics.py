"""What the steps of a run measured, and its looks at the held-out rows: lists that JSON holds. Knows no database.

A step is [step, loss, learning rate, tokens a second, gradient norm, memory, more], an evaluation [step, loss, best]; the
last fields may be missing. Records come with adapters from elsewhere, so nothing about them is taken for granted.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Entry = list[Any]
LARGEST = 1 << 28
FIELDS = {"losses": 7, "evaluations": 3}


@dataclass(frozen=True)
class Metrics:
    """A run's steps and evaluations, both by rising step."""

    losses: tuple[Entry, ...] = ()
    evaluations: tuple[Entry, ...] = ()

    def extended(self, later: Metrics) -> Metrics:
        """These, and `later` ones; a step that comes again replaces what was told of it and of all steps after it."""
        return Metrics(_replaced(self.losses, later.losses), _after(self.evaluations, later))

    def as_json(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "evaluations": list(self.evaluations)}


def metrics_of(record: Mapping[str, Any]) -> Metrics | None:
    """The metrics in a record; None where they are not such as adreg writes."""
    found = {name: record.get(name) or [] for name in FIELDS}
    if not all(isinstance(entries, list) and _sound(entries, FIELDS[name]) for name, entries in found.items()):
        return None
    return Metrics(**{name: tuple(list(entry) for entry in entries) for name, entries in found.items()})


def pack(metrics: Metrics) -> bytes:
    """The bytes that a database keeps."""
    return zlib.compress(json.dumps(finite(metrics.as_json()), separators=(",", ":")).encode(), 6)


def unpack(packed: bytes) -> Metrics:
    """What `pack` was given. Raises `ValueError`."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(packed, LARGEST)
        record = json.loads(text) if inflater.eof else None
    except zlib.error as error:
        raise ValueError(f"its metrics cannot be unpacked: {error}") from error
    found = metrics_of(record) if isinstance(record, dict) else None
    if found is None:
        raise ValueError("its metrics are not what a run writes")
    return found


def finite(value: Any) -> Any:
    """`value` as JSON can say it: infinities and what is no number become nothing."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _replaced(earlier: tuple[Entry, ...], later: tuple[Entry, ...]) -> tuple[Entry, ...]:
    if not later:
        return earlier
    return (*(entry for entry in earlier if entry[0] < later[0][0]), *later)


def _after(earlier: tuple[Entry, ...], later: Metrics) -> tuple[Entry, ...]:
    """Evaluations of before the first step that was taken again, and the later ones."""
    begun = min([entry[0] for entry in later.losses[:1]] + [entry[0] + 1 for entry in later.evaluations[:1]], default=None)
    return earlier if begun is None else (*(entry for entry in earlier if entry[0] < begun), *later.evaluations)


def _sound(entries: Iterable[Any], most: int) -> bool:
    """Whether every entry is a short list that begins with a rising step and a number or nothing."""
    last = -1
    for entry in entries:
        if not isinstance(entry, list | tuple) or not 2 <= len(entry) <= most or not _count(entry[0]) or entry[0] <= last:
            return False
        if not all(_plain(value) for value in entry[1:]):
            return False
        last = entry[0]
    return True


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(inner, int | float) or inner is None for inner in value.values())
    return value is None or isinstance(value, int | float)
