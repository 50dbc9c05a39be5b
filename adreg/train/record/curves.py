"""The numbers of a loss plot, taken from a run's record and smoothed. What is odd in a record is left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

Point = tuple[float, float]
SMOOTHING, SHORT, STEADY = 0.8, 0.5, 50


@dataclass(frozen=True)
class LossCurve:
    """One run: points of (step, loss), as measured, smoothed and on the held-out rows, and of (step, learning rate)."""

    name: str
    raw: tuple[Point, ...]
    smooth: tuple[Point, ...]
    held_out: tuple[Point, ...]
    rates: tuple[Point, ...]


def curve_of(record: Mapping[str, Any], name: str) -> LossCurve:
    """The curve of a run's whole record."""
    steps = [entry for entry in record.get("losses") or [] if isinstance(entry, list | tuple) and len(entry) >= 2]
    raw = [(float(entry[0]), float(entry[1])) for entry in steps if _number(entry[0]) and _number(entry[1])]
    rates = [
        (float(entry[0]), float(entry[2])) for entry in steps if len(entry) > 2 and _number(entry[0]) and _number(entry[2])
    ]
    return LossCurve(name, tuple(raw), tuple(smoothed(raw)), tuple(_held_out(record)), tuple(rates))


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The exponential moving average of `points`, without the pull of its start; the longer the run, the steadier."""
    short = SHORT + (SMOOTHING - SHORT) * min(len(points) / STEADY, 1)
    keep = max(short, 1 - STEADY / max(len(points), 1))
    average, weight, found = 0.0, 0.0, []
    for step, loss in points:
        average = keep * average + (1 - keep) * loss
        weight = keep * weight + (1 - keep)
        found.append((step, average / weight))
    return found


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """About `most` of `points`, with the lowest and the highest of each stretch, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    stretches = (points[start : start + size] for start in range(0, len(points), size))
    kept: list[Point] = []
    for stretch in stretches:
        kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return kept


def loss_range(curves: Sequence[LossCurve], with_steps: bool = True) -> tuple[float, float]:
    """The losses that a plot shows: of single steps, if at all, all but the outermost."""
    sure = [loss for curve in curves for _, loss in (*curve.smooth, *curve.held_out)]
    loose = sorted(loss for curve in curves for _, loss in curve.raw) if with_steps else []
    sure += [loose[len(loose) // 100], loose[-1 - len(loose) // 100]] if loose else []
    if not sure:
        return 0.0, 1.0
    low, high = min(sure), max(sure)
    margin = 0.05 * (high - low) or 0.1 * abs(high) or 0.5
    return max(low - margin, 0.0) if low >= 0 else low - margin, high + margin


def last_step(curves: Sequence[LossCurve]) -> float:
    """The highest step of all."""
    return max((step for curve in curves for step, _ in (*curve.raw, *curve.held_out)), default=1.0) or 1.0


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between `low` and `high`: multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [size * place for place in range(math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9) + 1)]


def told(values: Sequence[float]) -> list[str]:
    """Numbers of an axis with as many digits as tell them apart."""
    for digits in range(7):
        texts = [f"{value:.{digits}f}" for value in values]
        if len(set(texts)) == len(set(values)) and all(
            abs(float(t) - v) <= 1e-9 + 1e-3 * abs(v) for t, v in zip(texts, values, strict=True)
        ):
            return texts
    return [f"{value:.3g}" for value in values]


def _held_out(record: Mapping[str, Any]) -> Iterator[Point]:
    """The losses on the held-out rows: of the base at step 0, at each look, and of the adapter at the end."""
    scores, steps = record.get("eval") or {}, record.get("steps") or 0
    entries = [entry for entry in record.get("evaluations") or [] if isinstance(entry, list | tuple) and len(entry) >= 2]
    looks = [(float(entry[0]), float(entry[1])) for entry in entries if _number(entry[0]) and _number(entry[1])]
    before, after = scores.get("base"), scores.get("adapter")
    if _number(before) and not any(step == 0 for step, _ in looks):
        yield 0.0, float(before)
    yield from looks
    if _number(after) and _number(steps) and _kept_last(record) and all(step < steps for step, _ in looks):
        yield float(steps), float(after)


def _kept_last(record: Mapping[str, Any]) -> bool:
    """Whether the adapter is that of the last step, and not that of the best look."""
    return record.get("outcome") != "stopped early"


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
