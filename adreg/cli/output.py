"""The one sink for what commands say: data on stdout, everything else on stderr, for people, scripts or ids only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from adreg.cli.terminal import clean, coloured, coloured_stdout, styled, table_lines, terminal_width

if TYPE_CHECKING:
    from rich.console import Console

RIGHT = ("SIZE", "RANK", "PARAMETERS", "ROWS", "TOKENS", "LOSS", "VERSIONS")
Columns = Mapping[str, Callable[[Any], str]]
LONG = 200
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
        self,
        rows: Sequence[Mapping[str, Any]],
        columns: Columns,
        id_: str,
        empty: str,
        style: Callable[[Any], str] | None = None,
    ) -> None:
        """Rows of data. `columns` maps headings to functions of a row, `style` a row to how it is drawn; `id_` is the key
        that `quiet` prints."""
        if self.json:
            self.stream(rows)
        elif self.quiet:
            sys.stdout.writelines(f"{row[id_]}\n" for row in rows)
        elif not rows:
            self.note(empty)
        else:
            cells = {heading: [cell(row) for row in rows] for heading, cell in columns.items()}
            styles = [style(row) for row in rows] if style else []
            lines = table_lines(cells, RIGHT, terminal_width(), coloured_stdout(), styles)
            sys.stdout.writelines(f"{line}\n" for line in lines)

    def data(self, value: Any) -> None:
        """One JSON value on stdout."""
        print_line(json.dumps(value, ensure_ascii=False, indent=2, default=str))

    def stream(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """A JSON list on stdout; a long one has a line for each row, and is never whole in memory."""
        left = iter(rows)
        first = list(islice(left, LONG))
        if len(first) < LONG:
            self.data(first)
            return
        sys.stdout.write("[")
        for index, row in enumerate(chain(first, left)):
            sys.stdout.write(("," if index else "") + "\n" + json.dumps(row, ensure_ascii=False, default=str))
        print_line("\n]")

    def fields(self, value: Mapping[str, Any], id_: str, pairs: Iterable[tuple[str, str]]) -> None:
        """One thing: `value` for scripts, `pairs` of label and text for people."""
        if self.json:
            self.data(value)
        elif self.quiet:
            print_line(str(value[id_]))
        else:
            told = list(pairs)
            size = max([14, *(len(label) + 2 for label, _ in told)])
            for label, text in told:
                print_line(styled(f"{label:<{size}}", "dim", coloured_stdout()) + clean(text))

    def done(self, text: str, value: Mapping[str, Any], id_: str) -> None:
        """A change that was made: a sentence on stderr, or `value`, or its id."""
        if self.json:
            self.data(value)
        elif self.quiet:
            print_line(str(value[id_]))
        else:
            print_message(f"{styled('✓', 'green', coloured(sys.stderr))} {clean(text)}")

    def note(self, text: str, style: str = "") -> None:
        """Something for the person at the terminal; silent in scripts."""
        if self.human:
            print_message(styled(clean(text), style, coloured(sys.stderr)))

    def hint(self, text: str) -> None:
        self.note(f"Hint: {text}", "dim")


def print_line(text: str) -> None:
    """One line of data on stdout."""
    sys.stdout.write(text + "\n")


def print_message(text: str) -> None:
    """One line for the person at the terminal, on stderr."""
    sys.stderr.write(text + "\n")


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


def stderr_console() -> Console:
    """The console for progress and messages."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False)
