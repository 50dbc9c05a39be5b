"""Where things are in the picture of an adapter's updates, in pixels. Knows a grid's labels and sizes, draws nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from adreg.formats.adapters.layergrid import OUTSIDE, Grid

TOP, LEFT, RIGHT = 56, 78, 96
PANEL, SPACE, BOTTOM = 120, 64, 52
CHARACTER, LEVEL = 6.6, 18.0


@dataclass(frozen=True)
class Layout:
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
    def level(self) -> bool:
        """Whether the column names have room beside each other."""
        return self.names == LEVEL

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
        beside = RIGHT if self.level else max(RIGHT, self.names)
        wide = max(self.left + self.across * len(self.grid.columns) + beside, 520)
        return round(wide), round(self.panels + PANEL + BOTTOM)

    @property
    def labelled(self) -> list[int]:
        """The rows that have room for their label; the one outside all layers always has."""
        step, last = max(1, math.ceil(13 / self.down)), len(self.grid.rows) - 1
        found = list(range(0, last + 1, step))
        if self.grid.rows[last] == OUTSIDE and found[-1] != last:
            return [*(row for row in found if last - row >= step), last]
        return found

    def x(self, column: float) -> float:
        return self.left + self.across * column


def layout_of(grid: Grid) -> Layout:
    """Cells as large as the whole has room for."""
    across = max(30.0, min(84.0, 720 / len(grid.columns)))
    longest = CHARACTER * max(len(column) for column in grid.columns)
    return Layout(grid, across, max(4.0, min(20.0, 520 / len(grid.rows))), LEVEL if longest < across else 0.7 * longest + 18)
