"""The loss plot of one run or several in the terminal. Knows curves, not records."""

from __future__ import annotations

from collections.abc import Sequence

from adreg.cli.braille import Canvas, Point
from adreg.cli.sparks import sparkline
from adreg.cli.terminal import styled
from adreg.train.record.curves import LossCurve, last_step, loss_range, thinned, ticks, told

ROWS, NARROWEST, WIDEST = 14, 30, 110
HELD, SERIES = "series1", 8


def loss_lines(curves: Sequence[LossCurve], colour: bool, room: int) -> list[str]:
    """The plot in at most `room` columns: the smoothed loss as a line, each step faint behind it, held-out losses as dots.

    Without colour single steps are left out, and several runs are told apart by letters.
    """
    with_steps = colour and len(curves) == 1
    low, high = loss_range(curves, with_steps)
    labels = _labels(low, high)
    front = max(map(len, labels.values()), default=4) + 2
    columns = max(NARROWEST, min(room, WIDEST) - front - 2)
    canvas, steps = Canvas(columns, ROWS), last_step(curves)

    def at(point: Point) -> Point:
        return point[0] / steps, (point[1] - low) / (high - low)

    if with_steps:
        canvas.line([at(point) for point in thinned(curves[0].raw, 2 * columns)], "faint series0")
    for place, curve in enumerate(curves):
        canvas.line([at(point) for point in _every(curve.smooth, 2 * columns)], _style(place))
    for place, curve in enumerate(curves):
        for point in curve.held_out:
            canvas.sign(at(point), "●", HELD if len(curves) == 1 else _style(place))
        if len(curves) > 1 and curve.smooth:
            canvas.sign(at(curve.smooth[-1]), _letter(place), _style(place))
    lines = _framed(canvas.lines(colour), labels, front, colour)
    return [*lines, *_axis(steps, columns, front, colour), *_rates(curves, columns, front, colour), *_legend(curves, colour)]


def _style(place: int) -> str:
    return f"series{place % SERIES}"


def _letter(place: int) -> str:
    return chr(ord("A") + place % 26)


def _labels(low: float, high: float) -> dict[int, str]:
    """The rows that a round loss lies in, and that loss."""
    values = ticks(low, high, 5)
    rows = [round((1 - (value - low) / (high - low)) * (ROWS * 4 - 1)) // 4 for value in values]
    return dict(zip(rows, told(values), strict=True))


def _framed(lines: Sequence[str], labels: dict[int, str], front: int, colour: bool) -> list[str]:
    return [
        styled(f"{labels.get(row, ''):>{front - 2}} {'┤' if row in labels else '│'}", "dim", colour) + line
        for row, line in enumerate(lines)
    ]


def _axis(steps: float, columns: int, front: int, colour: bool) -> list[str]:
    values = [value for value in ticks(0, steps, max(2, columns // 12)) if value == int(value)]
    line, names = ["─"] * columns, [" "] * (columns + front)
    for value in values:
        x = round(value / steps * (columns * 2 - 1)) // 2
        line[x] = "┬"
        text = f"{value:.0f}" if value else "0"
        start = min(max(x + front - 1 - len(text) // 2, 0), columns + front - len(text))
        names[start + 1 : start + 1 + len(text)] = text
    label = "".join(names).rstrip()
    told_ = f"{label}  step" if len(label) + 6 <= columns + front + 2 else label
    return [styled(f"{'':>{front - 2}} └{''.join(line)}", "dim", colour), styled(told_, "dim", colour)]


def _rates(curves: Sequence[LossCurve], columns: int, front: int, colour: bool) -> list[str]:
    """The learning rate of a single run, as a line of bars under its steps."""
    rates = [rate for _, rate in curves[0].rates] if len(curves) == 1 else []
    if len(set(rates)) < 2:
        return []
    stretched = [rates[len(rates) * column // columns] for column in range(columns)]
    return [styled(f"{'lr':>{front - 2}}  ", "dim", colour) + styled(sparkline(stretched, columns, low=0.0), "cyan", colour)]


def _every(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` of `points`, with the last."""
    return [*points[:: max(1, len(points) // most)], *points[-1:]]


def _legend(curves: Sequence[LossCurve], colour: bool) -> list[str]:
    if len(curves) == 1:
        held = curves[0].held_out
        parts = [styled("⠒⠒", "series0", colour) + " loss, smoothed"]
        parts += [styled("⠢⠔", "faint series0", colour) + " each step"] if colour else []
        if held:
            values = f"{held[0][1]:.3f} → {held[-1][1]:.3f}" if len(held) > 1 else f"{held[0][1]:.3f}"
            parts.append(styled("●", HELD, colour) + f" held-out loss {values}")
        if curves[0].rates:
            parts.append(styled("lr", "cyan", colour) + f" ≤ {max(rate for _, rate in curves[0].rates):.3g}")
        return ["  " + "   ".join(parts)]
    return [f"  {styled(_letter(place), _style(place), colour)} {_named(curve)}" for place, curve in enumerate(curves)]


def _named(curve: LossCurve) -> str:
    return f"{curve.name}{f'   ● held-out {curve.held_out[-1][1]:.3f}' if curve.held_out else ''}"
