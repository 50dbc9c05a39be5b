"""Two runs that should be the same, step by step. Knows records only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """`steps` that both have, the largest relative difference of their losses, and the first that differ, with both losses.

    `same_weights` is None where one of them recorded none.
    """

    steps: int
    missing: int
    largest: float
    first: tuple[int, float, float] | None
    same_weights: bool | None

    @property
    def same(self) -> bool:
        """Whether everything is equal, to the last bit of the weights."""
        return self.same_weights is True and self.first is None and self.missing == 0

    def agree_to(self, tolerance: float) -> bool:
        """Whether all losses agree so far."""
        return self.steps > 0 and self.missing == 0 and self.largest <= tolerance


def compare(before: dict[str, Any], again: dict[str, Any]) -> Comparison:
    """The records of a run and of its repetition."""
    one, two = _losses(before), _losses(again)
    both = sorted(one.keys() & two.keys())
    differing = [step for step in both if one[step] != two[step]]
    largest = max((_relative(one[step], two[step]) for step in differing), default=0.0)
    first = (differing[0], one[differing[0]], two[differing[0]]) if differing else None
    digests = before.get("weights"), again.get("weights")
    same = digests[0] == digests[1] if all(digests) else None
    return Comparison(len(both), len(one.keys() ^ two.keys()), largest, first, same)


def _losses(record: dict[str, Any]) -> dict[int, float]:
    entries: Sequence[Any] = record.get("losses") or []
    return {int(entry[0]): float(entry[1]) for entry in entries if len(entry) > 1 and isinstance(entry[1], int | float)}


def _relative(one: float, two: float) -> float:
    size = max(abs(one), abs(two))
    return abs(one - two) / size if math.isfinite(size) and size else math.inf
