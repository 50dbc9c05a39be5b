"""A picture as PNG, on white, two pixels a point where it is not huge. Needs Pillow, whose own font it writes in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from adreg.errors import MissingExtra, UsageError
from adreg.formats.pictures.shapes import INKS, TEXTS, Box, Curve, Dot, Picture, Point, Words

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

SAMPLES, DENSITY, MOST_SAMPLES = 2, 2, 64_000_000
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def write_png(picture: Picture, path: Path) -> None:
    """Write the file. Raises `MissingExtra` without Pillow, `UsageError` for a picture larger than any screen."""
    if find_spec("PIL") is None:
        raise MissingExtra("Pillow", "plot")
    from PIL import Image

    density = next((one for one in range(DENSITY, 0, -1) if _samples(picture, one) <= MOST_SAMPLES), None)
    if density is None:
        raise UsageError(f"{picture.width} × {picture.height} points are too many for a PNG file", "write SVG")
    scale = density * SAMPLES
    image = Image.new("RGB", (picture.width * scale, picture.height * scale), "white")
    for shape in picture.shapes:
        match shape:
            case Box():
                _box(image, shape, scale)
            case Words():
                _words(image, shape, scale)
            case Curve():
                _curve(image, shape, scale)
            case Dot():
                _dot(image, shape, scale)
    image.reduce(SAMPLES).save(path, "PNG", optimize=True)


def _samples(picture: Picture, density: int) -> int:
    return picture.width * picture.height * (density * SAMPLES) ** 2


def _box(image: Image, box: Box, scale: int) -> None:
    left, top = round(box.x * scale), round(box.y * scale)
    size = max(1, round((box.x + box.width) * scale) - left), max(1, round((box.y + box.height) * scale) - top)
    empty = INKS["empty"]
    _cover(image, (left, top), _mask(size, 255 if box.colour else round(255 * empty.cover)), box.colour or empty.colour)


def _words(image: Image, words: Words, scale: int) -> None:
    """Drawn around the middle of a mask of its own, which is turned about it."""
    from PIL import Image, ImageDraw

    size, colour = TEXTS[words.kind]
    font = _font(size * scale)
    reach = int(font.getlength(words.text)) + 2 * size * scale
    mask = _mask((2 * reach, 2 * size * scale) if words.turn == 0 else (2 * reach, 2 * reach), 0)
    centre = mask.width // 2, mask.height // 2
    ImageDraw.Draw(mask).text(centre, words.text, 255, font, ANCHORS[words.anchor])
    turned = mask.rotate(-words.turn, Image.Resampling.BICUBIC) if words.turn else mask
    _cover(image, (round(words.x * scale) - centre[0], round(words.y * scale) - centre[1]), turned, colour)


def _curve(image: Image, curve: Curve, scale: int) -> None:
    """Drawn on a mask of its own, so that it covers nothing twice where it bends."""
    from PIL import ImageDraw

    ink, pad = INKS[curve.ink], 4 * scale
    left, top = (round(min(axis) * scale) - pad for axis in zip(*curve.points, strict=True))
    right, bottom = (round(max(axis) * scale) + pad for axis in zip(*curve.points, strict=True))
    mask = _mask((right - left, bottom - top), 0)
    for stroke in _dashes(curve.points, *ink.dash) if ink.dash else [curve.points]:
        points = [(x * scale - left, y * scale - top) for x, y in stroke]
        ImageDraw.Draw(mask).line(points, round(255 * ink.cover), round(ink.width * scale), joint="curve")
    _cover(image, (left, top), mask, ink.colour)


def _dashes(points: Sequence[Point], length: float, gap: float) -> Iterator[list[Point]]:
    """The strokes of a dashed line along `points`."""
    stroke, left, drawing = [points[0]], length, True
    for (x, y), (to_x, to_y) in pairwise(points):
        whole, done = math.hypot(to_x - x, to_y - y), 0.0
        while whole - done > left:
            done, share = done + left, (done + left) / whole
            turn = (x + (to_x - x) * share, y + (to_y - y) * share)
            if drawing:
                yield [*stroke, turn]
            stroke, drawing = [turn], not drawing
            left = length if drawing else gap
        left -= whole - done
        stroke.append((to_x, to_y))
    if drawing and len(stroke) > 1:
        yield stroke


def _dot(image: Image, dot: Dot, scale: int) -> None:
    from PIL import ImageDraw

    box = [round(value * scale) for value in (dot.x - dot.radius, dot.y - dot.radius, dot.x + dot.radius, dot.y + dot.radius)]
    ImageDraw.Draw(image).ellipse(box, fill=INKS[dot.ink].colour)


def _mask(size: tuple[int, int], cover: int) -> Image:
    from PIL import Image

    return Image.new("L", size, cover)


def _cover(image: Image, place: tuple[int, int], mask: Image, colour: str) -> None:
    image.paste(colour, (*place, place[0] + mask.width, place[1] + mask.height), mask)


@lru_cache(maxsize=8)
def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
