"""Writes a picture in the format that a file's name ends in."""

from __future__ import annotations

from pathlib import Path

from adreg.errors import UsageError
from adreg.formats.atomic import atomic_file
from adreg.formats.pictures.png import write_png
from adreg.formats.pictures.shapes import Picture
from adreg.formats.pictures.svg import svg

FORMATS = (".svg", ".png")


def check_format(path: Path) -> None:
    """Raise `UsageError` for another format than SVG and PNG."""
    if path.suffix.lower() not in FORMATS:
        kind = path.suffix.lstrip(".").upper() or "no"
        told = f"write {path.with_suffix('.svg').name} or {path.with_suffix('.png').name}"
        raise UsageError(f"{path.name}: adreg draws SVG and PNG, not {kind} files", told)


def write_picture(path: Path, picture: Picture) -> None:
    """Write `picture` to `path`, whole or not at all."""
    check_format(path)
    with atomic_file(path) as partial:
        if path.suffix.lower() == ".png":
            write_png(picture, partial)
        else:
            partial.write_text(svg(picture), encoding="utf-8")
