"""The heat map of an adapter's updates and their spectra, as a picture in a file. Knows a grid of norms, no adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from adreg.cli.picturefile import check_format, write_picture
from adreg.cli.plotlayout import Layout, layout_of
from adreg.cli.spectrumpanels import figure, spectrum_panels
from adreg.cli.terminal import clean
from adreg.errors import UsageError
from adreg.formats.adapters.layergrid import Cell, Scale, grid_of, scale_of
from adreg.formats.adapters.spectra import Spectrum
from adreg.formats.pictures.shapes import Box, Picture, Words

VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
KIND = "norm of each update by layer and module, and its singular values"


def write_plot(path: Path, title: str, spectra: Sequence[Spectrum]) -> None:
    """Write the picture to `path`, whole or not at all, in the format that its name ends in.

    Raises `UsageError` for another format than SVG and PNG, and where there is nothing to draw.
    """
    check_format(path)
    write_picture(path, heatmap(title, spectra))


def heatmap(title: str, spectra: Sequence[Spectrum]) -> Picture:
    """The norm of every update (rows layers, columns modules), and under each column its singular values.

    Raises `UsageError` where there is nothing to draw.
    """
    grid = grid_of(spectra)
    if not grid.cells:
        raise UsageError("the adapter has no updates of weights to draw")
    layout, scale = layout_of(grid), scale_of(grid.norms)
    shapes = [
        Words(layout.left, 22, clean(title), "title"),
        Words(layout.left, 40, KIND),
        *_names(layout),
        *_cells(layout, scale),
        *_bar(layout, scale),
        *spectrum_panels(layout),
    ]
    return Picture(*layout.size, shapes)


def _names(layout: Layout) -> Iterator[Words]:
    for column, name in enumerate(layout.grid.columns):
        x, y = layout.x(column + 0.5), layout.top - 6
        yield Words(x, y, clean(name), anchor="middle") if layout.level else Words(x, y, clean(name), turn=-45)
    for row in layout.labelled:
        y = layout.top + layout.down * (row + 0.5) + 4
        yield Words(layout.left - 8, y, clean(layout.grid.rows[row]), anchor="end")
    yield Words(14, (layout.top + layout.below) / 2, "layer", anchor="middle", turn=-90)


def _cells(layout: Layout, scale: Scale) -> Iterator[Box]:
    gap = 1 if layout.down > 6 else 0
    for row in range(len(layout.grid.rows)):
        for column in range(len(layout.grid.columns)):
            cell = layout.grid.cells.get((row, column))
            colour, hint = (_colour(scale.share(cell.norm)), _hint(cell)) if cell else (None, "")
            y = layout.top + layout.down * row
            yield Box(layout.x(column), y, layout.across - 1, layout.down - gap, colour, hint)


def _hint(cell: Cell) -> str:
    spectrum = cell.strongest
    several = f" and {len(cell.spectra) - 1} more" if len(cell.spectra) > 1 else ""
    ranks = f"effective rank {spectrum.effective_rank:.2f} of {spectrum.rank}"
    return f"{clean(spectrum.module)}{several}: {cell.norm:.4g}, {ranks}"


def _colour(share: float) -> str:
    place = min(max(share, 0.0), 1.0) * (len(VIRIDIS) - 1)
    first = min(int(place), len(VIRIDIS) - 2)
    mixed = (low + (high - low) * (place - first) for low, high in zip(VIRIDIS[first], VIRIDIS[first + 1], strict=True))
    return "#" + "".join(f"{round(value):02x}" for value in mixed)


def _bar(layout: Layout, scale: Scale) -> Iterator[Box | Words]:
    """The colours and what they mean, beside the map."""
    x, height, steps = layout.x(len(layout.grid.columns)) + 16, layout.bar, 32
    for step in range(steps):
        y = layout.top + height * (1 - (step + 1) / steps)
        yield Box(x, y, 12, height / steps + 0.5, _colour(step / (steps - 1)))
    for share in (0.0, 0.5, 1.0):
        yield Words(x + 18, layout.top + height * (1 - share) + 4, figure(_norm_at(scale, share)))
    if scale.logarithmic:
        yield Words(x, layout.top + height + 20, "logarithmic", "small")


def _norm_at(scale: Scale, share: float) -> float:
    if scale.logarithmic:
        return float(scale.low * (scale.high / scale.low) ** share)
    return scale.low + (scale.high - scale.low) * share
