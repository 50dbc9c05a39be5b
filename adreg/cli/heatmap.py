"""An adapter's updates by layer and module in the terminal, with block characters. Knows a grid of norms, not adapters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import fmean, median

from adreg.cli.terminal import clean, shortened, styled
from adreg.formats.adapters.layergrid import Grid, Scale, grid_of, scale_of
from adreg.formats.adapters.layers import USUAL
from adreg.formats.adapters.spectra import Spectrum

COLOURS = (53, 54, 55, 24, 25, 31, 30, 36, 35, 41, 77, 113, 149, 185, 227)
SHADES, BARS = "·░▒▓█", "▁▂▃▄▅▆▇█"
LINES, NARROW, WIDE, LEGEND = 24, 4, 12, 16


def heatmap_lines(spectra: Sequence[Spectrum], colour: bool, room: int | None = None) -> list[str]:
    """The norms of `spectra` as a picture of at most `LINES` lines, with their mean spectra and a legend.

    In colour a character holds two layers; `room` are the columns of the terminal, None for as many as it takes.
    """
    grid = grid_of(spectra)
    if not grid.cells:
        return ["no updates of weights to draw"]
    scale = scale_of(grid.norms)
    names = [_short(name) for name in grid.columns]
    bins = _bins(grid, LINES * 2 if colour else LINES)
    front = max(len("layer"), *(len(label) for label, _ in bins)) + 2
    widths = [max(NARROW, len(name)) for name in names]
    shown = _fitting(widths, None if room is None else room - front)
    lines = [styled(f"{'layer':<{front}}{_joined(names[:shown], widths)}".rstrip(), "bold", colour)]
    lines += _coloured(bins, scale, widths[:shown], front) if colour else _shaded(bins, scale, widths[:shown], front)
    lines.append(styled(f"{'σ':<{front}}{_joined(_sparks(grid, widths)[:shown], widths)}".rstrip(), "cyan", colour))
    lines += [f"({len(names) - shown} more kinds do not fit)"] if shown < len(names) else []
    return [*lines, *_legend(grid, scale, colour)]


def _short(name: str) -> str:
    return shortened(clean(name.removesuffix("_proj") if name in USUAL else name), WIDE)


def _fitting(widths: Sequence[int], room: int | None) -> int:
    """How many columns `room` holds, one at least."""
    if room is None:
        return len(widths)
    return max(1, sum(sum(widths[: count + 1]) + count <= room for count in range(len(widths))))


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    return " ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False))


Bin = tuple[str, list[float | None]]


def _bins(grid: Grid, most: int) -> list[Bin]:
    """The rows, or means over neighbouring rows where there are more than `most`; None where nothing is adapted."""
    step = -(-len(grid.rows) // most)
    found: list[Bin] = []
    for _, group in groupby(range(len(grid.rows)), key=lambda row: row // step):
        rows = list(group)
        first, last = grid.rows[rows[0]], grid.rows[rows[-1]]
        label = first if first == last else f"{first}-{last.rpartition(' ')[2]}"
        found.append((label, [_mean(grid, rows, column) for column in range(len(grid.columns))]))
    return found


def _mean(grid: Grid, rows: Sequence[int], column: int) -> float | None:
    norms = [grid.cells[row, column].norm for row in rows if (row, column) in grid.cells]
    return fmean(norms) if norms else None


def _shaded(bins: Sequence[Bin], scale: Scale, widths: Sequence[int], front: int) -> list[str]:
    def cell(norm: float | None, width: int) -> str:
        return (" " if norm is None else _step(SHADES, scale.share(norm))) * width

    return [
        f"{label:<{front}}{' '.join(cell(norm, width) for norm, width in zip(norms, widths, strict=False))}".rstrip()
        for label, norms in bins
    ]


def _coloured(bins: Sequence[Bin], scale: Scale, widths: Sequence[int], front: int) -> list[str]:
    """Two rows a line: the upper one in the colour of ▀, the lower one in its background."""

    def shade(norm: float | None) -> int | None:
        return None if norm is None else COLOURS[round(scale.share(norm) * (len(COLOURS) - 1))]

    lines = []
    for start in range(0, len(bins), 2):
        label, upper = bins[start]
        lower = bins[start + 1][1] if start + 1 < len(bins) else [None] * len(upper)
        cells = [_block(shade(up), shade(low), width) for up, low, width in zip(upper, lower, widths, strict=False)]
        lines.append(f"{label:<{front}}{' '.join(cells)}")
    return lines


def _block(upper: int | None, lower: int | None, width: int) -> str:
    if upper is None and lower is None:
        return " " * width
    if upper is None:
        return f"\x1b[38;5;{lower}m{'▄' * width}\x1b[0m"
    back = "" if lower is None else f";48;5;{lower}"
    return f"\x1b[38;5;{upper}{back}m{'▀' * width}\x1b[0m"


def _sparks(grid: Grid, widths: Sequence[int]) -> list[str]:
    """Each column's mean spectrum, its largest value as the highest bar."""
    return [_spark(_mean_spectrum(grid, column), width) for column, width in enumerate(widths)]


def _mean_spectrum(grid: Grid, column: int) -> list[float]:
    spectra = [cell.strongest.values for cell in grid.column(column)]
    longest = max(map(len, spectra), default=0)
    return [fmean(values[place] for values in spectra if place < len(values)) for place in range(longest)]


def _spark(values: Sequence[float], width: int) -> str:
    if not values or values[0] <= 0:
        return ""
    places = [place * len(values) // width for place in range(min(width, len(values)))] if len(values) > width else None
    chosen = values if places is None else [values[place] for place in places]
    return "".join(_step(BARS, value / values[0]) for value in chosen)


def _step(characters: str, share: float) -> str:
    return characters[min(len(characters) - 1, int(share * len(characters)))]


def _legend(grid: Grid, scale: Scale, colour: bool) -> list[str]:
    strongest = grid.strongest
    spectra = [spectrum for cell in grid.cells.values() for spectrum in cell.spectra]
    if colour:
        bar = "".join(f"\x1b[38;5;{code}m█\x1b[0m" for code in COLOURS)
    else:
        bar = "".join(_step(SHADES, place / LEGEND) for place in range(LEGEND))
    kind = "‖ΔW‖, logarithmic" if scale.logarithmic else "‖ΔW‖"
    ranks = f"effective rank {median(spectrum.effective_rank for spectrum in spectra):.1f} of {max(s.rank for s in spectra)}"
    told = [f"{scale.low:.3g} {bar} {scale.high:.3g}  {kind}"]
    if strongest is not None:
        told.append(f"strongest {clean(strongest.module)} {strongest.norm:.3g}; {ranks} (median); σ: mean singular values")
    return told
