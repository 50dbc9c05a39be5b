"""How long work tells that it moves on. The library calls; `cli/` draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of work of known or unknown length."""

    def advance(self, amount: float = 1, note: str = "") -> None: ...


class Progress(Protocol):
    """Opens tasks; `unit` is `B` for bytes, or what is counted."""

    def task(self, title: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]: ...


class SilentTask:
    """A task that nobody watches."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Says nothing."""


class SilentProgress:
    """The default where nobody watches."""

    @contextmanager
    def task(self, title: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        yield SilentTask()


SILENT = SilentProgress()
