"""Lines in a terminal with braille characters, two by four dots in each. Knows dots and styles, not what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from adreg.cli.terminal import styled

Point = tuple[float, float]
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
EMPTY = 0x2800


@dataclass
class Canvas:
    """`columns` by `rows` characters. Points are shares: (0, 0) is the lower left corner, (1, 1) the upper right one.

    Of several things in one character the last one drawn is seen."""

    columns: int
    rows: int
    _dots: dict[tuple[int, int], int] = field(default_factory=dict)
    _styles: dict[tuple[int, int], str] = field(default_factory=dict)
    _signs: dict[tuple[int, int], str] = field(default_factory=dict)

    def line(self, points: Sequence[Point], style: str) -> None:
        """Straight lines from point to point."""
        own: dict[tuple[int, int], int] = {}
        placed = [self._place(point) for point in points]
        for (x, y), (to_x, to_y) in pairwise(placed) if len(placed) > 1 else [(placed[0], placed[0])] if placed else []:
            length = max(abs(to_x - x), abs(to_y - y), 1)
            for step in range(length + 1):
                across, down = x + (to_x - x) * step / length, y + (to_y - y) * step / length
                self._dot(own, round(across), round(down))
        self._dots |= own
        self._styles |= dict.fromkeys(own, style)

    def sign(self, point: Point, sign: str, style: str) -> None:
        """One character at a point."""
        x, y = self._place(point)
        cell = (x // 2, y // 4)
        self._signs[cell], self._styles[cell] = sign, style

    def lines(self, colour: bool) -> list[str]:
        """The picture, line by line from the top."""
        return ["".join(self._character(column, row, colour) for column in range(self.columns)) for row in range(self.rows)]

    def _character(self, column: int, row: int, colour: bool) -> str:
        cell = (column, row)
        if cell not in self._styles:
            return " "
        sign = self._signs.get(cell) or chr(EMPTY + self._dots[cell])
        return styled(sign, self._styles[cell], colour)

    def _place(self, point: Point) -> tuple[int, int]:
        x = round(min(max(point[0], 0.0), 1.0) * (self.columns * 2 - 1))
        return x, round((1 - min(max(point[1], 0.0), 1.0)) * (self.rows * 4 - 1))

    @staticmethod
    def _dot(own: dict[tuple[int, int], int], x: int, y: int) -> None:
        cell = (x // 2, y // 4)
        own[cell] = own.get(cell, 0) | DOTS[y % 4][x % 2]
