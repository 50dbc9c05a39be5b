"""A picture as SVG, readable on light and dark pages. Nothing from outside is markup."""

from __future__ import annotations

from xml.sax.saxutils import escape

from adreg.formats.pictures.shapes import INKS, TEXTS, Box, Curve, Dot, Ink, Picture, Shape, Words

DARK = "@media (prefers-color-scheme: dark) { text { fill: #9da7b3 } .title { fill: #e6edf3 } }"


def svg(picture: Picture) -> str:
    """The text of the file."""
    size = f'viewBox="0 0 {picture.width} {picture.height}" width="{picture.width}" height="{picture.height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, f"<style>\n{_style(picture)}\n</style>", *map(_element, picture.shapes), "</svg>"]) + "\n"


def _style(picture: Picture) -> str:
    """How texts, and the inks that the picture uses, look."""
    texts = [f".{kind} {{ font-size: {size}px; fill: {colour} }}" for kind, (size, colour) in TEXTS.items()]
    used = {shape.ink for shape in picture.shapes if isinstance(shape, Curve)}
    inks = [f".{name} {{ {_stroke(ink)} }}" for name, ink in INKS.items() if name in used]
    empty = f".empty {{ fill: {INKS['empty'].colour}; fill-opacity: {INKS['empty'].cover:g} }}"
    rounded = "path { fill: none; stroke-linejoin: round; stroke-linecap: round }"
    return "\n".join([f"text {{ font-family: system-ui, sans-serif }} {rounded}", *texts, *inks, empty, DARK])


def _stroke(ink: Ink) -> str:
    dash = f"; stroke-dasharray: {ink.dash[0]:g} {ink.dash[1]:g}; stroke-linecap: butt" if ink.dash else ""
    return f"stroke: {ink.colour}; stroke-opacity: {ink.cover:g}; stroke-width: {ink.width:g}{dash}"


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
        case Dot():
            place = f'cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{shape.radius:g}"'
            return _with_hint("circle", f'fill="{INKS[shape.ink].colour}" {place}', shape.hint)


def _with_hint(tag: str, attributes: str, hint: str) -> str:
    return f"<{tag} {attributes}><title>{escape(hint)}</title></{tag}>" if hint else f"<{tag} {attributes}/>"
