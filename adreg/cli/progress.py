"""Draws progress on stderr: bars on a terminal, one plain line a task elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from adreg.cli.output import stderr_console
from adreg.progress import SILENT, Progress, Task


@dataclass(frozen=True)
class _BarTask:
    bars: Bars
    id: TaskID

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.bars.update(self.id, advance=amount, note=note)


class TerminalProgress:
    """Bars with what is done, a note, and the time left."""

    @contextmanager
    def task(self, title: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        done: ProgressColumn = DownloadColumn() if unit == "B" else MofNCompleteColumn()
        columns = (SpinnerColumn(), TextColumn("{task.description:<12}"), BarColumn(28), done)
        note = TextColumn("[dim]{task.fields[note]}")
        with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), note, console=stderr_console(), transient=True) as bars:
            yield _BarTask(bars, bars.add_task(title, total=total, note=""))


class _QuietTask:
    note = ""

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.note = note


class PlainProgress:
    """A line when a task took more than a moment."""

    @contextmanager
    def task(self, title: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        started, task = time.monotonic(), _QuietTask()
        yield task
        seconds = time.monotonic() - started
        if seconds > 1:
            note = "" if unit == "B" else task.note
            stderr_console().print(f"{title} done in {seconds:.1f} s  {note}".rstrip(), markup=False)


def progress(wanted: bool = True) -> Progress:
    """The drawing that fits where stderr goes."""
    if not wanted:
        return SILENT
    return TerminalProgress() if stderr_console().is_terminal else PlainProgress()
