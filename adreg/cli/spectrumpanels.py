"""The singular values under a heat map: a panel for each kind of module, on one logarithmic axis. Knows where the map is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from adreg.cli.plotlayout import PANEL, Layout
from adreg.cli.terminal import clean
from adreg.formats.pictures.shapes import Curve, Point, Words

GAP, FLOOR = 4, 1e-4
LEGEND = "singular values by index: a line for each layer, their median in orange"


def spectrum_panels(layout: Layout) -> Iterator[Curve | Words]:
    """Under each column a panel with a line for each layer and their median, all on one logarithmic axis."""
    values = [value for cell in layout.grid.cells.values() for value in cell.strongest.values if value > 0]
    if not values:
        return
    high = max(values)
    low = max(min(values), high * FLOOR)
    top, bottom = math.ceil(math.log10(high) * 2) / 2, min(math.floor(math.log10(low) * 2) / 2, math.log10(high) - 0.5)
    yield Words(layout.left, layout.panels - 12, LEGEND)
    right = layout.x(len(layout.grid.columns)) - GAP
    for power in _ticks(bottom, top):
        y = layout.panels + PANEL * (top - power) / (top - bottom)
        yield Curve([(layout.left, y), (right, y)], "grid")
        yield Words(layout.left - 8, y + 4, figure(10.0**power), anchor="end")
    for column in range(len(layout.grid.columns)):
        yield from _panel(layout, column, top, bottom)


def figure(value: float) -> str:
    """`value` as a label: thousands in full."""
    return f"{value:.0f}" if 1000 <= value < 1e6 else f"{value:.3g}"


def _ticks(bottom: float, top: float) -> list[float]:
    """The powers of ten between two exponents, with their doubles and fives where there are few."""
    steps = (0.0,) if top - bottom > 2 else (0.0, math.log10(2), math.log10(5))
    found = [decade + step for decade in range(math.floor(bottom), math.ceil(top) + 1) for step in steps]
    return [power for power in found if bottom - 1e-9 <= power <= top + 1e-9]


def _panel(layout: Layout, column: int, top: float, bottom: float) -> Iterator[Curve | Words]:
    lines = [(cell.strongest.module, cell.strongest.values) for cell in layout.grid.column(column)]
    longest = max(len(values) for _, values in lines)
    left, wide = layout.x(column) + 2, layout.across - GAP - 4
    chosen = _spread(longest, 4 * round(wide))
    across = {place: left + wide * place / max(longest - 1, 1) for place in chosen}

    def points(values: Mapping[int, float]) -> Iterator[Point]:
        for place, value in values.items():
            if value > 0 and math.log10(value) >= bottom:
                yield across[place], layout.panels + PANEL * (top - math.log10(value)) / (top - bottom)

    for module, values in lines:
        yield from _curve(
            list(points({place: values[place] for place in chosen if place < len(values)})), "line", clean(module)
        )
    middle = {place: median(values[place] for _, values in lines if place < len(values)) for place in chosen}
    yield from _curve(list(points(middle)), "middle")
    for place in sorted({0, longest - 1}):
        anchor = "start" if place == 0 else "end"
        yield Words(across[place], layout.panels + PANEL + 16, str(place + 1), "small", anchor)


def _curve(points: Sequence[Point], ink: str, hint: str = "") -> Iterator[Curve]:
    """A curve that can be seen even where it is a single point."""
    if points:
        yield Curve(points if len(points) > 1 else [points[0], (points[0][0] + 2, points[0][1])], ink, hint)


def _spread(count: int, most: int) -> list[int]:
    """All of `count` places, or `most` of them from the first to the last."""
    return list(range(count)) if count <= most else [round(place * (count - 1) / (most - 1)) for place in range(most)]
