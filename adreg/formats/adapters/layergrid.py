"""Spectra laid out as people look at a model: a row for each layer, a column for each kind of module. Draws nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from adreg.formats.adapters.layers import Place, kind_order, place_of
from adreg.formats.adapters.spectra import Spectrum

OUTSIDE = "outside"
MOST_ROWS = 1000


@dataclass(frozen=True)
class Cell:
    """The updates of one kind in one layer; several where it has experts."""

    spectra: tuple[Spectrum, ...]

    @cached_property
    def norm(self) -> float:
        """The Frobenius norm of all of them together."""
        return math.hypot(*(spectrum.norm for spectrum in self.spectra))

    @property
    def strongest(self) -> Spectrum:
        return max(self.spectra, key=lambda spectrum: spectrum.norm)


@dataclass(frozen=True)
class Grid:
    """`cells` by row and column number; a layer without an update has a row without cells."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[int, int], Cell]

    @cached_property
    def norms(self) -> tuple[float, ...]:
        return tuple(cell.norm for cell in self.cells.values())

    @property
    def strongest(self) -> Spectrum | None:
        return max((cell.strongest for cell in self.cells.values()), key=lambda spectrum: spectrum.norm, default=None)

    def column(self, number: int) -> list[Cell]:
        """The cells of a column from the first layer to the last."""
        return [cell for (_, column), cell in sorted(self.cells.items()) if column == number]


@dataclass(frozen=True)
class Scale:
    """The way from a norm to 0..1: from zero to the largest, or by logarithm where the norms are decades apart."""

    low: float
    high: float
    logarithmic: bool

    def share(self, norm: float) -> float:
        if norm <= self.low or self.high <= self.low:
            return 0.0 if norm <= self.low else 1.0
        if self.logarithmic:
            return min(1.0, math.log(norm / self.low) / math.log(self.high / self.low))
        return min(1.0, (norm - self.low) / (self.high - self.low))


def grid_of(spectra: Sequence[Spectrum]) -> Grid:
    """All `spectra` in their places."""
    places = {spectrum.module: place_of(spectrum.module) for spectrum in spectra}
    rows = _rows(set(places.values()))
    kinds = dict.fromkeys(place.kind for place in sorted(places.values(), key=kind_order))
    columns = {kind: number for number, kind in enumerate(kinds)}
    found: dict[tuple[int, int], list[Spectrum]] = {}
    for spectrum in spectra:
        place = places[spectrum.module]
        found.setdefault((rows[_row(place)], columns[place.kind]), []).append(spectrum)
    stacks = {stack for stack, _ in rows}
    labels = [_row_label(stack, layer, len(stacks - {""}) > 1) for stack, layer in rows]
    cells = {where: Cell(tuple(spectra)) for where, spectra in sorted(found.items())}
    return Grid(tuple(labels), tuple(_column_labels(list(columns))), cells)


def scale_of(norms: Sequence[float], decades: float = 20.0) -> Scale:
    """The scale for `norms`; a logarithm where the largest is `decades` times the smallest that is not zero."""
    positive = [norm for norm in norms if norm > 0]
    high = max(positive, default=0.0)
    low = min(positive, default=0.0)
    return Scale(low * 0.999, high, True) if low > 0 and high / low > decades else Scale(0.0, high, False)


def _row(place: Place) -> tuple[str, int]:
    return (place.stack, place.layer) if place.layer >= 0 else ("", -1)


def _rows(places: set[Place]) -> dict[tuple[str, int], int]:
    """Row numbers by stack and layer, also of layers between adapted ones; what is outside comes last."""
    ends: dict[str, list[int]] = {}
    for place in places:
        if place.layer >= 0:
            ends.setdefault(place.stack, []).append(place.layer)
    keys: list[tuple[str, int]] = []
    for stack, layers in sorted(ends.items()):
        whole = max(layers) - min(layers) < MOST_ROWS
        keys += [(stack, layer) for layer in (range(min(layers), max(layers) + 1) if whole else sorted(set(layers)))]
    if any(place.layer < 0 for place in places):
        keys.append(("", -1))
    return {key: number for number, key in enumerate(keys)}


def _row_label(stack: str, layer: int, several: bool) -> str:
    if layer < 0:
        return OUTSIDE
    return f"{stack.split('.')[-2] if '.' in stack else stack} {layer}" if several else str(layer)


def _column_labels(kinds: Sequence[str]) -> list[str]:
    """The last part of each kind, or all of it where two end alike."""
    ends = Counter(kind.rpartition(".")[2] for kind in kinds)
    return [end if ends[end := kind.rpartition(".")[2]] == 1 else kind for kind in kinds]
