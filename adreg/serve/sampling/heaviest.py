"""The greatest few of many numbers without sorting them all, and a draw by weight. Ties go to the lower index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]
Numbers = NDArray[np.floating[Any]]

SMALL = 1024
DEPTHS = (2.0, 5.0, 9.0)
BLOCK = 256


def largest(scores: Numbers, count: int) -> Indices:
    """Where the `count` largest of `scores` (logits) are, in order of index."""
    floors = [scores.max() - depth for depth in DEPTHS]
    near = _narrowed(scores, floors, lambda found: len(found) >= count)
    found = scores[near]
    return near if count >= len(found) else near[_down_to(np.partition(found, -count)[-count], found, count)]


def nucleus(weights: Numbers, share: float) -> Indices:
    """Where the fewest of `weights` (at most 1) are that make up `share` of their sum, in order of index; at least one."""
    wanted = share * float(weights.sum(dtype=np.float64))
    near = _narrowed(weights, np.exp(np.negative(DEPTHS)), lambda found: weights[found].sum(dtype=np.float64) >= wanted)
    found = weights[near]
    falling = np.sort(found)[::-1]
    reached = np.cumsum(falling, dtype=np.float64)
    count = min(int(np.searchsorted(reached, wanted)) + 1, len(found))
    return near[_down_to(falling[count - 1], found, count)]


def drawn(weights: Numbers, uniform: float) -> int:
    """The index at which the running sum of `weights` passes `uniform`, in [0, 1), of it all: the inverse of their CDF.

    Sums of blocks first, so that few numbers are added in double precision. An index of weight 0 is never drawn.
    """
    starts = np.arange(0, len(weights), BLOCK)
    reached = np.cumsum(np.add.reduceat(weights, starts), dtype=np.float64)
    goal = min(uniform * reached[-1], np.nextafter(reached[-1], 0))
    block = int(np.searchsorted(reached, goal, side="right"))
    inside = weights[starts[block] : starts[block] + BLOCK]
    goal -= reached[block - 1] if block else 0
    found = int(np.searchsorted(np.cumsum(inside, dtype=np.float64), goal, side="right"))
    return int(starts[block]) + min(found, int(np.flatnonzero(inside)[-1]))


def _narrowed(numbers: Numbers, floors: Numbers | list[Any], enough: Callable[[Indices], bool]) -> Indices:
    """Where the numbers above the first of `floors` are that leaves `enough` of them; everywhere, where none does."""
    for floor in floors if len(numbers) > SMALL else ():
        found = np.flatnonzero(numbers >= floor)
        if enough(found):
            return found
    return np.arange(len(numbers))


def _down_to(last: np.floating[Any], numbers: Numbers, count: int) -> Indices:
    """Where the `count` largest of `numbers` are, of which `last` is the smallest."""
    above, level = np.flatnonzero(numbers > last), np.flatnonzero(numbers == last)
    return np.sort(np.concatenate([above, level[: count - len(above)]]))
