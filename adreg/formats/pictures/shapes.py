"""A picture as shapes in pixels, to be written as SVG or PNG. Knows no file format and nothing of what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Ink:
    """What is drawn with: a colour `#rrggbb`, how much of it covers what lies below, a line's width in pixels, and how long
    its dashes and the gaps between them are, where it has any."""

    colour: str
    cover: float = 1.0
    width: float = 1.0
    dash: tuple[float, float] | None = None


SERIES = ("#2f81f7", "#d9730d", "#2da44e", "#8957e5", "#e5534b", "#1b9aaa", "#bf4b8a", "#9a8100")
"""Colours for several things in one picture, told apart on light and dark pages."""
INKS: Mapping[str, Ink] = {
    "empty": Ink("#8c959f", 0.12),
    "grid": Ink("#8c959f", 0.3),
    "line": Ink("#2f81f7", 0.28),
    "middle": Ink("#d9730d", 1.0, 2.0),
    **{f"bold{place}": Ink(colour, 1.0, 2.2) for place, colour in enumerate(SERIES)},
    **{f"fine{place}": Ink(colour, 1.0, 1.4) for place, colour in enumerate(SERIES)},
    **{f"faint{place}": Ink(colour, 0.28) for place, colour in enumerate(SERIES)},
    **{f"dashed{place}": Ink(colour, 0.9, 1.4, (5.0, 4.0)) for place, colour in enumerate(SERIES)},
}
TEXTS: Mapping[str, tuple[int, str]] = {"title": (14, "#24292f"), "plain": (12, "#57606a"), "small": (10, "#57606a")}
"""Size in pixels and colour of each kind of text."""


@dataclass(frozen=True)
class Box:
    """A filled rectangle, of a colour or else of the ink `empty`; `hint` is told where a format can."""

    x: float
    y: float
    width: float
    height: float
    colour: str | None = None
    hint: str = ""


@dataclass(frozen=True)
class Words:
    """A line of text of a kind of `TEXTS`. Its baseline starts, ends or has its middle at x, y, about which it is turned,
    in degrees clockwise."""

    x: float
    y: float
    text: str
    kind: str = "plain"
    anchor: str = "start"
    turn: int = 0


@dataclass(frozen=True)
class Curve:
    """Straight lines from point to point, in an ink of `INKS`."""

    points: Sequence[Point]
    ink: str
    hint: str = ""


@dataclass(frozen=True)
class Dot:
    """A filled circle around x, y, in the colour of an ink of `INKS`."""

    x: float
    y: float
    radius: float
    ink: str
    hint: str = ""


Shape = Box | Words | Curve | Dot


@dataclass(frozen=True)
class Picture:
    """`shapes` from the lowest to the uppermost."""

    width: int
    height: int
    shapes: Sequence[Shape]
