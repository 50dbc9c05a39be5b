"""The one sink for what commands say: data on stdout, everything else on stderr, for people, scripts or ids only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

RIGHT = ("SIZE", "RANK", "PARAMETERS", "ROWS", "TOKENS", "LOSS", "VERSIONS")
Columns = Mapping[str, Callable[[Any], str]]
PIPE_WIDTH = 1000
COLOURS = {"block": "bold red", "err": "red", "warn": "yellow", "info": "cyan"}


@dataclass(frozen=True)
class Output:
    """Prints results as text, as JSON (`json`), or as bare ids (`quiet`)."""

    json: bool = False
    quiet: bool = False

    @property
    def human(self) -> bool:
        return not (self.json or self.quiet)

    def table(
        self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[Any], str]], id_: str, empty: str
    ) -> None:
        """Rows of data. `columns` maps headings to functions of a row; `id_` is the key that `quiet` prints."""
        if self.json:
            self.data(list(rows))
        elif self.quiet:
            for row in rows:
                print_line(str(row[id_]))
        elif not rows:
            self.note(empty)
        else:
            _stdout().print(_table(rows, columns))

    def data(self, value: Any) -> None:
        """One JSON value on stdout."""
        print_line(json.dumps(value, ensure_ascii=False, indent=2, default=str))

    def fields(self, value: Mapping[str, Any], id_: str, pairs: Iterable[tuple[str, str]]) -> None:
        """One thing: `value` for scripts, `pairs` of label and text for people."""
        if self.json:
            self.data(value)
        elif self.quiet:
            print_line(str(value[id_]))
        else:
            for label, text in pairs:
                _stdout().print(Text(f"{label:<14}", style="dim") + Text(clean(text)), soft_wrap=True)

    def done(self, text: str, value: Mapping[str, Any], id_: str) -> None:
        """A change that was made: a sentence on stderr, or `value`, or its id."""
        if self.json:
            self.data(value)
        elif self.quiet:
            print_line(str(value[id_]))
        else:
            stderr_console().print(Text("✓ ", style="green") + Text(clean(text)), soft_wrap=True)

    def note(self, text: str, style: str = "") -> None:
        """Something for the person at the terminal; silent in scripts."""
        if self.human:
            stderr_console().print(Text(clean(text), style=style), soft_wrap=True)

    def hint(self, text: str) -> None:
        self.note(f"Hint: {text}", "dim")


def _table(rows: Sequence[Mapping[str, Any]], columns: Columns) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in columns:
        table.add_column(heading, justify="right" if heading in RIGHT else "left", overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(clean(cell(row))) for cell in columns.values()))
    return table


def print_line(text: str) -> None:
    """One line of data on stdout."""
    sys.stdout.write(text + "\n")


def clean(text: str) -> str:
    """`text` without control characters: names from outside cannot move the cursor."""
    return "".join(character if character.isprintable() or character == "\n" else "�" for character in text)


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def number(count: float) -> str:
    """A large count for people: 134.5M."""
    for unit in ("", "k", "M"):
        if count < 1000:
            return f"{count:.0f}" if not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}B"


def age(moment: str) -> str:
    """How long ago an ISO moment was."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def _stdout() -> Console:
    """The console for data: cut to the terminal's width, but whole in a file or pipe."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def stderr_console() -> Console:
    """The console for progress and messages."""
    return Console(file=sys.stderr, highlight=False)
