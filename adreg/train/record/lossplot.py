"""The loss plot of one run or several as a picture: each step faint, smoothed, held-out losses, and the learning rate below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adreg.formats.pictures.shapes import SERIES, Curve, Dot, Picture, Point, Shape, Words
from adreg.train.record.curves import LossCurve, last_step, loss_range, thinned, ticks, told

WIDTH, LEFT, RIGHT, TOP, LINE = 800, 66, 30, 58, 20
MAIN, SPACE, BELOW, BOTTOM = 300, 26, 56, 46
KEYS = (("bold0", "training loss, smoothed", 180), ("faint0", "each step", 100), ("dashed1", "held-out loss", 0))


@dataclass(frozen=True)
class _Panel:
    """A rectangle of the picture and the values that its edges stand for."""

    top: float
    height: float
    steps: float
    low: float
    high: float

    def at(self, point: Point) -> Point:
        share = (min(max(point[1], self.low), self.high) - self.low) / ((self.high - self.low) or 1)
        return LEFT + (WIDTH - LEFT - RIGHT) * point[0] / self.steps, self.top + self.height * (1 - share)

    def line(self, points: Sequence[Point], ink: str, hint: str = "") -> Iterator[Curve]:
        shown = [self.at(point) for point in thinned(points, 2 * WIDTH)]
        if len(shown) > 1:
            yield Curve(shown, ink, hint)


def loss_picture(curves: Sequence[LossCurve], title: str = "", subtitle: str = "") -> Picture:
    """The plot. Several runs are told apart by colour, and named with their last held-out loss."""
    keys = 1 if len(curves) == 1 else len(curves)
    top = TOP + LINE * keys
    main = _Panel(top, MAIN, last_step(curves), *loss_range(curves))
    rates = [rate for curve in curves for _, rate in curve.rates]
    below = _Panel(top + MAIN + SPACE, BELOW, main.steps, 0.0, max(rates, default=1.0) or 1.0)
    shapes: list[Shape] = [Words(LEFT, 26, title or curves[0].name, "title"), Words(LEFT, 46, subtitle)]
    shapes += _legend(curves)
    shapes += _grid(main, 6)
    shapes += _rates(below, curves)
    shapes += [shape for place, curve in enumerate(curves) for shape in _faint(main, curve, _ink(place))]
    shapes += [shape for place, curve in enumerate(curves) for shape in _strong(main, curve, _ink(place))]
    for place, curve in enumerate(curves):
        shapes += _held_out(main, curve, _ink(place) if len(curves) > 1 else 1)
    shapes += _steps(below)
    return Picture(WIDTH, round(below.top + BELOW + BOTTOM), shapes)


def _ink(place: int) -> int:
    return place % len(SERIES)


def _legend(curves: Sequence[LossCurve]) -> Iterator[Shape]:
    if len(curves) == 1:
        x = float(LEFT)
        for ink, name, wide in KEYS[: 3 if curves[0].held_out else 2]:
            yield from _key(x, TOP + 8, ink, name)
            x += wide
        return
    for place, curve in enumerate(curves):
        held = f", held-out loss {curve.held_out[-1][1]:.3f}" if curve.held_out else ""
        yield from _key(LEFT, TOP + 8 + LINE * place, f"bold{_ink(place)}", curve.name + held)


def _key(x: float, y: float, ink: str, name: str) -> Iterator[Shape]:
    yield Curve([(x, y), (x + 22, y)], ink)
    if ink.startswith("dashed"):
        yield Dot(x + 11, y, 3.5, ink)
    yield Words(x + 30, y + 4, name)


def _grid(panel: _Panel, about: int) -> Iterator[Shape]:
    values = ticks(panel.low, panel.high, about)
    for value, text in zip(values, told(values), strict=True):
        y = panel.at((0, value))[1]
        yield Curve([(LEFT, y), (WIDTH - RIGHT, y)], "grid")
        yield Words(LEFT - 8, y + 4, text, anchor="end")
    yield Words(16, panel.top + panel.height / 2, "loss", anchor="middle", turn=-90)


def _steps(panel: _Panel) -> Iterator[Shape]:
    values = [value for value in ticks(0, panel.steps, 8) if value == int(value)]
    for value in values:
        x = panel.at((value, 0))[0]
        yield Words(x, panel.top + panel.height + 18, f"{value:.0f}", anchor="middle")
    yield Words((WIDTH + LEFT - RIGHT) / 2, panel.top + panel.height + 38, "step", anchor="middle")


def _rates(panel: _Panel, curves: Sequence[LossCurve]) -> Iterator[Shape]:
    for value in (0.0, panel.high):
        y = panel.at((0, value))[1]
        yield Curve([(LEFT, y), (WIDTH - RIGHT, y)], "grid")
        yield Words(LEFT - 8, y + 4, f"{value:.3g}", anchor="end")
    yield Words(WIDTH - RIGHT, panel.top - 6, "learning rate", "small", "end")
    for place, curve in enumerate(curves):
        yield from panel.line(curve.rates, f"fine{_ink(place)}", "learning rate")


def _faint(panel: _Panel, curve: LossCurve, ink: int) -> Iterator[Shape]:
    yield from panel.line(curve.raw, f"faint{ink}", "each step")


def _strong(panel: _Panel, curve: LossCurve, ink: int) -> Iterator[Shape]:
    yield from panel.line(curve.smooth, f"bold{ink}", curve.name)


def _held_out(panel: _Panel, curve: LossCurve, ink: int) -> Iterator[Shape]:
    yield from panel.line(curve.held_out, f"dashed{ink}", "held-out loss")
    for step, loss in curve.held_out:
        x, y = panel.at((step, loss))
        yield Dot(x, y, 4, f"bold{ink}", f"held-out loss {loss:.4f} after step {step:.0f}")
    if curve.held_out:
        x, y = panel.at(curve.held_out[-1])
        yield Words(min(x + 8, WIDTH - RIGHT + 6), y - 9, f"{curve.held_out[-1][1]:.3f}", anchor="end")
