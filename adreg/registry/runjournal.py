"""The journal of a run under way: a file that each step is appended to. Cheap, and whole when the process is killed.

The process that trains holds a lock on it (flock), and locks die with their process: a running run whose journal nobody
locks is lost, whatever runs under its pid by now.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from adreg.errors import ConflictError
from adreg.formats.atomic import disk_errors
from adreg.registry.runmetrics import Metrics, finite, metrics_of

NAME = "metrics.jsonl"
STEP, EVALUATION = "losses", "evaluations"
SYNCED_EVERY, PATIENCE = 1.0, 20


def journal_path(home: Path, run: str) -> Path:
    """Where the journal of a run lies, beside its checkpoints."""
    return home / "runs" / run / NAME


class Journal:
    """Appends to the journal of one run. A crash of the machine loses a second at most, a crash of the process nothing."""

    def __init__(self, path: Path) -> None:
        """Open and lock. Raises `ConflictError` where another process has it."""
        self.path, self._synced = path, time.monotonic()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if not _locked(self._handle):
            os.close(self._handle)
            raise ConflictError(f"run {path.parent.name} is being trained by another process", "adreg runs ls")

    def append(self, kind: str, entry: Sequence[Any]) -> None:
        """Write one line. Raises `StorageError` when the disk takes no more."""
        line = json.dumps([kind, *finite(list(entry))], separators=(",", ":")) + "\n"
        with disk_errors(self.path):
            os.write(self._handle, line.encode())
            if time.monotonic() - self._synced >= SYNCED_EVERY:
                os.fsync(self._handle)
                self._synced = time.monotonic()

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._handle)


def _locked(handle: int) -> bool:
    """Take the lock; one who only looks whether it is held lets go of it within a moment."""
    for _ in range(PATIENCE):
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


def is_alive(path: Path) -> bool:
    """Whether a process holds the journal at `path`."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def read_journal(path: Path) -> Metrics:
    """What the journal tells; lines that a crash cut off, and what stands behind them, are left out."""
    found: dict[str, list[list[Any]]] = {STEP: [], EVALUATION: []}
    with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            entry = _entry(line)
            if entry is None:
                continue
            kind, values = entry
            if kind == STEP:
                _forget(found[EVALUATION], values[0])
            _forget(found[kind], values[0])
            found[kind].append(values)
    return metrics_of(found) or Metrics()


def _forget(entries: list[list[Any]], step: int) -> None:
    """Take away what was told of `step` and later ones."""
    while entries and entries[-1][0] >= step:
        entries.pop()


def _entry(line: str) -> tuple[str, list[Any]] | None:
    try:
        kind, *values = json.loads(line)
    except (ValueError, TypeError):
        return None
    if kind not in (STEP, EVALUATION) or len(values) < 2 or not isinstance(values[0], int):
        return None
    return kind, values
