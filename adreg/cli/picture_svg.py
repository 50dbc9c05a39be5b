"""A picture as SVG, readable on light and dark pages. Nothing from outside is markup."""

from __future__ import annotations

from xml.sax.saxutils import escape

from adreg.cli.picture import INKS, TEXTS, Box, Curve, Picture, Shape, Words

DARK = "@media (prefers-color-scheme: dark) { text { fill: #9da7b3 } .title { fill: #e6edf3 } }"


def svg(picture: Picture) -> str:
    """The text of the file."""
    size = f'viewBox="0 0 {picture.width} {picture.height}" width="{picture.width}" height="{picture.height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, f"<style>\n{_style()}\n</style>", *map(_element, picture.shapes), "</svg>"]) + "\n"


def _style() -> str:
    texts = [f".{kind} {{ font-size: {size}px; fill: {colour} }}" for kind, (size, colour) in TEXTS.items()]
    inks = [
        f".{name} {{ stroke: {ink.colour}; stroke-opacity: {ink.cover:g}; stroke-width: {ink.width:g} }}"
        for name, ink in INKS.items()
        if name != "empty"
    ]
    empty = f".empty {{ fill: {INKS['empty'].colour}; fill-opacity: {INKS['empty'].cover:g} }}"
    return "\n".join(["text { font-family: system-ui, sans-serif } path { fill: none }", *texts, *inks, empty, DARK])


def _element(shape: Shape) -> str:
    match shape:
        case Box():
            place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}"'
            return _with_hint(
                "rect", f'fill="{shape.colour}" {place}' if shape.colour else f'class="empty" {place}', shape.hint
            )
        case Words():
            anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
            turn = f' transform="rotate({shape.turn} {shape.x:.1f} {shape.y:.1f})"' if shape.turn else ""
            place = f'class="{shape.kind}" x="{shape.x:.1f}" y="{shape.y:.1f}"{anchor}{turn}'
            return f"<text {place}>{escape(shape.text)}</text>"
        case Curve():
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in shape.points)
            return _with_hint("path", f'class="{shape.ink}" d="M{path}"', shape.hint)


def _with_hint(tag: str, attributes: str, hint: str) -> str:
    return f"<{tag} {attributes}><title>{escape(hint)}</title></{tag}>" if hint else f"<{tag} {attributes}/>"
