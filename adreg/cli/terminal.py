"""Text for a terminal: tables, styles, widths. Plain characters, because drawing thousands of rows must not take seconds."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

STYLES = {
    "bold": "1", "dim": "2", "struck": "9", "red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold red": "1;31",
    "struck dim": "2;9",
    "faint series0": "2;38;5;33",
    **{f"series{place}": f"38;5;{code}" for place, code in enumerate((33, 172, 71, 98, 167, 37, 169, 142))},
}  # fmt: skip
GAP, NARROWEST = "  ", 4


def coloured(file: TextIO) -> bool:
    """Whether styles are wanted where `file` goes: a terminal, and no NO_COLOR (https://no-color.org)."""
    return file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured_stdout() -> bool:
    return coloured(sys.stdout)


def styled(text: str, style: str, wanted: bool) -> str:
    """`text` in one of `STYLES`, or as it is."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if wanted and style and text else text


def clean(text: str) -> str:
    """`text` without control characters: names from outside cannot move the cursor."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character == "\n" else "�" for character in text)


def width(text: str) -> int:
    """The columns that `text` takes in a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def table_lines(
    columns: Mapping[str, Sequence[str]],
    right: Iterable[str],
    room: int | None,
    colour: bool,
    styles: Sequence[str] = (),
) -> Iterable[str]:
    """A table, line by line, from its cells by heading: as wide as the widest cell, cut to `room` columns where given."""
    cells = [_cleaned(column) for column in columns.values()]
    widths = [max([width(heading), *_widths(column)]) for heading, column in zip(columns, cells, strict=True)]
    if room is not None and _sum(widths) > room:
        widths = _narrowed(widths, room)
        cells = [[shortened(cell, limit) for cell in column] for column, limit in zip(cells, widths, strict=True)]
    signs = [">" if heading in right else "<" for heading in columns]
    form = GAP.join(f"{{:{sign}{size}}}" for sign, size in zip(signs, widths, strict=True)).format
    yield styled(form(*(shortened(name, size) for name, size in zip(columns, widths, strict=True))).rstrip(), "bold", colour)
    lines = map(form, *cells)
    if not all(map(_ascii, cells)):  # str.format counts characters, not the columns they take
        padded = zip(*map(_padded, cells, widths, signs), strict=True)
        lines = map(GAP.join, padded)
    for index, line in enumerate(lines):
        yield styled(line.rstrip(), styles[index] if styles else "", colour)


def _cleaned(column: Sequence[str]) -> Sequence[str]:
    if "".join(column).isprintable():
        return column
    return [clean(cell).replace("\n", " ") for cell in column]


def _ascii(column: Sequence[str]) -> bool:
    return "".join(column).isascii()


def _widths(column: Sequence[str]) -> Iterable[int]:
    return map(len if _ascii(column) else width, column)


def _padded(column: Sequence[str], size: int, sign: str) -> list[str]:
    """The cells with spaces up to `size` columns of the terminal."""
    spaces = [" " * (size - width(cell)) for cell in column]
    return [space + cell if sign == ">" else cell + space for cell, space in zip(column, spaces, strict=True)]


def _sum(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _narrowed(widths: Sequence[int], room: int) -> list[int]:
    """Make the widest columns narrower, one column at a time, until all fit."""
    found = list(widths)
    while _sum(found) > room and max(found) > NARROWEST:
        found[found.index(max(found))] -= 1
    return found


def terminal_width() -> int | None:
    """The columns of the terminal that stdout is; None where it goes to a file or pipe."""
    return terminal_columns(sys.stdout)


def terminal_columns(file: TextIO) -> int | None:
    """The columns of the terminal that `file` is; None where it is none."""
    return shutil.get_terminal_size().columns if file.isatty() else None


def shortened(text: str, size: int) -> str:
    """`text` in `size` columns at most, with `…` for what is left out."""
    if width(text) <= size:
        return text
    while width(text) > size - 1:
        text = text[:-1]
    return text + "…"
