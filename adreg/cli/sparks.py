"""A row of numbers as a line of block characters. Knows numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], columns: int, low: float | None = None, high: float | None = None) -> str:
    """`values` in at most `columns` characters, each the mean of a stretch; the highest bar is `high`, or the largest."""
    if not values or columns < 1:
        return ""
    count = min(columns, len(values))
    edges = [len(values) * place // count for place in range(count + 1)]
    means = [fmean(values[start:end]) for start, end in pairwise(edges)]
    floor, top = min(means) if low is None else low, max(means) if high is None else high
    return "".join(_bar((mean - floor) / (top - floor) if top > floor else 0.5) for mean in means)


def _bar(share: float) -> str:
    return BARS[min(len(BARS) - 1, max(0, int(share * len(BARS))))]
