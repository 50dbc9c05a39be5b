"""The loss curve as SVG, readable on light and dark pages. Knows numbers, not models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 48, 44
SMOOTHING = 0.8
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a } .title { font-size: 14px; fill: #24292f }
.grid { stroke: #8c959f; stroke-opacity: .3 }
.raw { stroke: #2f81f7; stroke-opacity: .35 } .smooth { stroke: #2f81f7; stroke-width: 2 }
.held { fill: #d9730d; stroke: #d9730d } path { fill: none }
@media (prefers-color-scheme: dark) { text { fill: #9da7b3 } .title { fill: #e6edf3 } }
""".strip()


@dataclass(frozen=True)
class Point:
    """A loss at a step."""

    step: float
    loss: float


@dataclass(frozen=True)
class _Scale:
    steps: float
    low: float
    high: float

    def at(self, point: Point) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * point.step / self.steps
        down = TOP + (HEIGHT - TOP - BOTTOM) * (self.high - point.loss) / (self.high - self.low)
        return round(across, 1), round(down, 1)


def loss_svg(title: str, losses: Sequence[Point], held_out: Sequence[Point] = ()) -> str:
    """A chart of `losses`, as measured and smoothed, with the `held_out` losses as dots on a dashed line."""
    scale = _scale([*losses, *held_out])
    parts = [
        f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>',
        *_grid(scale),
        f'<path class="raw" d="{_path(scale, losses)}"/>',
        f'<path class="smooth" d="{_path(scale, smoothed(losses))}"/>',
        *_held_out(scale, held_out),
        _legend(bool(held_out)),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">'
    )
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The exponential moving average of `points`, without the pull of its start."""
    average, weight, found = 0.0, 0.0, []
    for point in points:
        average = SMOOTHING * average + (1 - SMOOTHING) * point.loss
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        found.append(Point(point.step, average / weight))
    return found


def _scale(points: Sequence[Point]) -> _Scale:
    losses = [point.loss for point in points] or [0.0]
    margin = 0.05 * (max(losses) - min(losses)) or 0.5
    return _Scale(max([point.step for point in points] or [1]) or 1, max(min(losses) - margin, 0.0), max(losses) + margin)


def _grid(scale: _Scale) -> list[str]:
    lines = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        across, down = scale.at(Point(scale.steps * share, scale.low + (scale.high - scale.low) * share))
        loss = scale.low + (scale.high - scale.low) * share
        lines.append(f'<path class="grid" d="M{LEFT} {down}H{WIDTH - RIGHT}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{down + 4}" text-anchor="end">{loss:.2f}</text>')
        lines.append(f'<text x="{across}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{scale.steps * share:.0f}</text>')
    return [*lines, f'<text x="{(WIDTH + LEFT - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">step</text>']


def _path(scale: _Scale, points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in map(scale.at, points)) if points else ""


def _held_out(scale: _Scale, points: Sequence[Point]) -> list[str]:
    if not points:
        return []
    dots = [f'<circle class="held" cx="{x}" cy="{y}" r="4"/>' for x, y in map(scale.at, points)]
    return [f'<path class="held" stroke-dasharray="4 4" d="{_path(scale, points)}"/>', *dots]


def _legend(with_held_out: bool) -> str:
    names = [("smooth", "training loss"), *([("held", "held-out loss")] if with_held_out else [])]
    entries = [
        f'<path class="{style}" d="M{LEFT + 130 * place} 36h18"/><text x="{LEFT + 130 * place + 24}" y="40">{name}</text>'
        for place, (style, name) in enumerate(names)
    ]
    return "".join(entries)
