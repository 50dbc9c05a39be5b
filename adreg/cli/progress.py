"""Draws progress on stderr: bars on a terminal, one plain line a task elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adreg.cli.output import print_message, size, stderr_console
from adreg.progress import SILENT, Progress, Task

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


@dataclass(frozen=True)
class _BarTask:
    bars: Bars
    id: TaskID

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.bars.update(self.id, advance=amount, note=note)


class TerminalProgress:
    """Bars with what is done, how fast, a note, and the time left."""

    @contextmanager
    def task(self, title: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        from rich import progress as rich

        done = (rich.DownloadColumn(), rich.TransferSpeedColumn()) if unit == "B" else (rich.MofNCompleteColumn(),)
        columns = (rich.SpinnerColumn(), rich.TextColumn("{task.description:<12}"), rich.BarColumn(28), *done)
        times = (rich.TimeElapsedColumn(), rich.TimeRemainingColumn(), rich.TextColumn("[dim]{task.fields[note]}"))
        with rich.Progress(*columns, *times, console=stderr_console(), transient=True) as bars:
            yield _BarTask(bars, bars.add_task(title, total=total, note=""))


class _QuietTask:
    done, note = 0.0, ""

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        self.note = note


class PlainProgress:
    """A line when a task took more than a moment."""

    @contextmanager
    def task(self, title: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        started, task = time.monotonic(), _QuietTask()
        yield task
        seconds = time.monotonic() - started
        if seconds > 1:
            note = f"({size(int(task.done / seconds))}/s)" if unit == "B" else task.note
            print_message(f"{title} done in {seconds:.1f} s  {note}".rstrip())


def progress(wanted: bool = True) -> Progress:
    """The drawing that fits where stderr goes."""
    if not wanted:
        return SILENT
    return TerminalProgress() if sys.stderr.isatty() else PlainProgress()
