"""The bytes of an open database file, read through SQLite's own descriptor. Knows files, nothing of what is in them.

A descriptor of our own would do harm: when a process closes any descriptor of a file, it gives up all its locks on it
(fcntl(2), and sqlite.org/howtocorrupt.html, 2.2). SQLite closes none of its own while it holds a lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

DESCRIPTORS = Path("/dev/fd")
PIECE = 4 << 20


def own_descriptor(path: Path) -> int | None:
    """A descriptor of this process that has the file `path` open for reading, or None where there is none to be found."""
    try:
        wanted = path.stat()
        numbers = [int(entry.name) for entry in DESCRIPTORS.iterdir()]
    except (OSError, ValueError):
        return None
    return next((number for number in numbers if _is(number, wanted)), None)


def pieces(descriptor: int, size: int) -> Iterator[bytes]:
    """The first `size` bytes of a file, or fewer where it ends before."""
    start = 0
    while start < size:
        piece = os.pread(descriptor, min(PIECE, size - start), start)
        if not piece:
            return
        yield piece
        start += len(piece)


def _is(descriptor: int, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), wanted)
    except OSError:  # the listing's own, closed by now
        return False
