"""The heat map of an adapter's updates and their spectra as SVG, readable on light and dark pages. Knows a grid of norms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from xml.sax.saxutils import escape

from adreg.cli.terminal import clean
from adreg.errors import UsageError
from adreg.formats.adapters.layergrid import OUTSIDE, Cell, Grid, Scale, grid_of, scale_of
from adreg.formats.adapters.spectra import Spectrum
from adreg.formats.atomic import atomic_file

TOP, LEFT, RIGHT, GAP = 56, 78, 96, 4
PANEL, SPACE, BOTTOM = 120, 64, 52
CHARACTER, FLOOR = 6.6, 1e-4
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
LEGEND = "singular values by index: a line for each layer, their median in orange"
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a } .title { font-size: 14px; fill: #24292f }
.small { font-size: 10px } .grid { stroke: #8c959f; stroke-opacity: .3 } .empty { fill: #8c959f; fill-opacity: .12 }
.line { stroke: #2f81f7; stroke-opacity: .28 } .middle { stroke: #d9730d; stroke-width: 2 } path { fill: none }
@media (prefers-color-scheme: dark) { text { fill: #9da7b3 } .title { fill: #e6edf3 } }
""".strip()


@dataclass(frozen=True)
class _Layout:
    """Where things are, in pixels: `across` and `down` are the size of a cell, `names` the height of the column names."""

    grid: Grid
    across: float
    down: float
    names: float

    @property
    def left(self) -> float:
        return max(LEFT, 40 + CHARACTER * max(len(label) for label in self.grid.rows))

    @property
    def top(self) -> float:
        return TOP + self.names

    @property
    def below(self) -> float:
        """The lower edge of the heat map."""
        return self.top + self.down * len(self.grid.rows)

    @property
    def bar(self) -> float:
        """The height of the bar of colours."""
        return max(60.0, min(160.0, self.below - self.top))

    @property
    def panels(self) -> float:
        """The upper edge of the spectra."""
        return max(self.below, self.top + self.bar) + SPACE

    @property
    def size(self) -> tuple[int, int]:
        wide = max(self.left + self.across * len(self.grid.columns) + RIGHT, 520)
        return round(wide), round(self.panels + PANEL + BOTTOM)

    def x(self, column: float) -> float:
        return self.left + self.across * column


def write_plot(path: Path, title: str, spectra: Sequence[Spectrum]) -> None:
    """Write the picture to `path`, whole or not at all. Raises `UsageError` for another format than SVG."""
    if path.suffix.lower() != ".svg":
        kind = path.suffix.lstrip(".").upper() or "no"
        raise UsageError(f"{path.name}: adreg draws SVG, not {kind} files", f"write {path.with_suffix('.svg').name}")
    text = heatmap_svg(title, spectra)
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def heatmap_svg(title: str, spectra: Sequence[Spectrum]) -> str:
    """The norm of every update (rows layers, columns modules), and under each column its singular values.

    Raises `UsageError` where there is nothing to draw.
    """
    grid = grid_of(spectra)
    if not grid.cells:
        raise UsageError("the adapter has no low-rank updates to draw")
    layout, scale = _layout(grid), scale_of(grid.norms)
    wide, high = layout.size
    kind = "norm of scaling·B·A by layer and module, and its singular values"
    parts = [
        f'<text class="title" x="{layout.left:.1f}" y="22">{escape(clean(title))}</text>',
        f'<text x="{layout.left:.1f}" y="40">{kind}</text>',
        *_names(layout),
        *_cells(layout, scale),
        *_bar(layout, scale),
        *_spectra(layout),
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" role="img">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def _layout(grid: Grid) -> _Layout:
    across = max(30.0, min(84.0, 720 / len(grid.columns)))
    longest = CHARACTER * max(len(column) for column in grid.columns)
    return _Layout(grid, across, max(4.0, min(20.0, 520 / len(grid.rows))), 18 if longest < across else 0.7 * longest + 18)


def _names(layout: _Layout) -> Iterator[str]:
    level = layout.names == 18
    for column, name in enumerate(layout.grid.columns):
        x, y = layout.x(column + 0.5), layout.top - 6
        turn = 'text-anchor="middle"' if level else f'transform="rotate(-45 {x:.1f} {y:.1f})"'
        yield f'<text x="{x:.1f}" y="{y:.1f}" {turn}>{escape(clean(name))}</text>'
    for row in _labelled(layout):
        y = layout.top + layout.down * (row + 0.5) + 4
        label = escape(clean(layout.grid.rows[row]))
        yield f'<text x="{layout.left - 8:.1f}" y="{y:.1f}" text-anchor="end">{label}</text>'
    y = (layout.top + layout.below) / 2
    yield f'<text x="14" y="{y:.1f}" text-anchor="middle" transform="rotate(-90 14 {y:.1f})">layer</text>'


def _labelled(layout: _Layout) -> list[int]:
    """The rows that have room for their label; the one outside all layers always has."""
    step, last = max(1, math.ceil(13 / layout.down)), len(layout.grid.rows) - 1
    found = list(range(0, last + 1, step))
    if layout.grid.rows[last] == OUTSIDE and found[-1] != last:
        return [*(row for row in found if last - row >= step), last]
    return found


def _cells(layout: _Layout, scale: Scale) -> Iterator[str]:
    gap = 1 if layout.down > 6 else 0
    size = f'width="{layout.across - 1:.1f}" height="{layout.down - gap:.1f}"'
    for row in range(len(layout.grid.rows)):
        for column in range(len(layout.grid.columns)):
            place = f'x="{layout.x(column):.1f}" y="{layout.top + layout.down * row:.1f}" {size}'
            cell = layout.grid.cells.get((row, column))
            if cell is None:
                yield f'<rect class="empty" {place}/>'
            else:
                yield f'<rect {place} fill="{_colour(scale.share(cell.norm))}">{_hint(cell)}</rect>'


def _hint(cell: Cell) -> str:
    spectrum = cell.strongest
    several = f" and {len(cell.spectra) - 1} more" if len(cell.spectra) > 1 else ""
    ranks = f"effective rank {spectrum.effective_rank:.2f} of {spectrum.rank}"
    return f"<title>{escape(clean(spectrum.module))}{several}: {cell.norm:.4g}, {ranks}</title>"


def _colour(share: float) -> str:
    place = min(max(share, 0.0), 1.0) * (len(VIRIDIS) - 1)
    first = min(int(place), len(VIRIDIS) - 2)
    mixed = (low + (high - low) * (place - first) for low, high in zip(VIRIDIS[first], VIRIDIS[first + 1], strict=True))
    return "#" + "".join(f"{round(value):02x}" for value in mixed)


def _bar(layout: _Layout, scale: Scale) -> Iterator[str]:
    """The colours and what they mean, beside the map."""
    x, height, steps = layout.x(len(layout.grid.columns)) + 16, layout.bar, 32
    for step in range(steps):
        y = layout.top + height * (1 - (step + 1) / steps)
        size = f'width="12" height="{height / steps + 0.5:.1f}"'
        yield f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{_colour(step / (steps - 1))}"/>'
    for share in (0.0, 0.5, 1.0):
        y = layout.top + height * (1 - share) + 4
        yield f'<text x="{x + 18:.1f}" y="{y:.1f}">{_norm_at(scale, share):.3g}</text>'
    if scale.logarithmic:
        yield f'<text class="small" x="{x:.1f}" y="{layout.top + height + 20:.1f}">logarithmic</text>'


def _norm_at(scale: Scale, share: float) -> float:
    if scale.logarithmic:
        return float(scale.low * (scale.high / scale.low) ** share)
    return scale.low + (scale.high - scale.low) * share


def _spectra(layout: _Layout) -> Iterator[str]:
    """Under each column a panel with a line for each layer and their median, all on one logarithmic axis."""
    values = [value for cell in layout.grid.cells.values() for value in cell.strongest.values if value > 0]
    if not values:
        return
    high = max(values)
    low = max(min(values), high * FLOOR)
    top, bottom = math.ceil(math.log10(high) * 2) / 2, min(math.floor(math.log10(low) * 2) / 2, math.log10(high) - 0.5)
    yield f'<text x="{layout.left:.1f}" y="{layout.panels - 12:.1f}">{LEGEND}</text>'
    for power in _ticks(bottom, top):
        y = layout.panels + PANEL * (top - power) / (top - bottom)
        yield f'<path class="grid" d="M{layout.left:.1f} {y:.1f}H{layout.x(len(layout.grid.columns)) - GAP:.1f}"/>'
        yield f'<text x="{layout.left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:.3g}</text>'
    for column in range(len(layout.grid.columns)):
        yield from _panel(layout, column, top, bottom)


def _ticks(bottom: float, top: float) -> list[float]:
    """The powers of ten between two exponents, with their doubles and fives where there are few."""
    steps = (0.0,) if top - bottom > 2 else (0.0, math.log10(2), math.log10(5))
    found = [decade + step for decade in range(math.floor(bottom), math.ceil(top) + 1) for step in steps]
    return [power for power in found if bottom - 1e-9 <= power <= top + 1e-9]


def _panel(layout: _Layout, column: int, top: float, bottom: float) -> Iterator[str]:
    lines = [(cell.strongest.module, cell.strongest.values) for cell in layout.grid.column(column)]
    longest = max(len(values) for _, values in lines)
    left, wide = layout.x(column) + 2, layout.across - GAP - 4

    def points(values: Sequence[float]) -> str:
        shown = [(place, math.log10(value)) for place, value in enumerate(values) if value > 0 and math.log10(value) >= bottom]
        at = [
            f"{left + wide * place / max(longest - 1, 1):.1f} {layout.panels + PANEL * (top - power) / (top - bottom):.1f}"
            for place, power in shown
        ]
        return f"M{'L'.join(at)}" if len(at) > 1 else f"M{at[0]}h2" if at else ""

    for module, values in lines:
        yield f'<path class="line" d="{points(values)}"><title>{escape(clean(module))}</title></path>'
    middle = [median(values[place] for _, values in lines if place < len(values)) for place in range(longest)]
    yield f'<path class="middle" d="{points(middle)}"/>'
    for place in sorted({0, longest - 1}):
        x = left + wide * place / max(longest - 1, 1)
        anchor = "start" if place == 0 else "end"
        y = layout.panels + PANEL + 16
        yield f'<text class="small" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{place + 1}</text>'
