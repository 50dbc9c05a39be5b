"""A new file that is written once from end to end and hashed on the way. Knows bytes, not what they mean.

Where the system allows, the bytes go past its page cache: no second copy of them is made, nothing else is driven out of
memory, and no dirty pages are left to wait for at the end. Source: open(2), O_DIRECT.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

BUFFER = 1 << 22
SECTOR = 1 << 12  # no disk asks for a coarser alignment
DIRECT = getattr(os, "O_DIRECT", 0)


class StreamedFile:
    """Write to it inside `with`; behind it `size` and `sha256` are those of the file. One buffer is filled while the
    other is written. Raises `FileExistsError`, and the operating system's errors at some later write."""

    def __init__(self, path: Path) -> None:
        self._handle = _create(path)
        self._buffers = [mmap.mmap(-1, BUFFER), mmap.mmap(-1, BUFFER)]  # whole pages, as direct writes need them
        self._filled = self.size = 0
        self._hash = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`, which may be reused as soon as this returns."""
        rest = memoryview(data).cast("B")
        self._hash.update(rest)
        self.size += len(rest)
        while len(rest):
            taken = min(len(rest), BUFFER - self._filled)
            self._buffers[0][self._filled : self._filled + taken] = rest[:taken]
            self._filled += taken
            rest = rest[taken:]
            if self._filled == BUFFER:
                self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
                self._wait()
        finally:
            self._thread.shutdown()
            os.close(self._handle)

    def _flush(self) -> None:
        self._wait()
        self._writing = self._thread.submit(_write_all, self._handle, memoryview(self._buffers[0])[: self._filled])
        self._buffers.reverse()
        self._filled = 0

    def _wait(self) -> None:
        if self._writing:
            self._writing.result()


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags | DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        path.unlink(missing_ok=True)
        return os.open(path, flags, 0o666)


def _write_all(handle: int, data: memoryview) -> None:
    """Write the whole of `data`: directly as far as it is whole sectors and the file system takes it."""
    while len(data):
        whole = len(data) // SECTOR * SECTOR
        try:
            done = os.write(handle, data[: whole or len(data)])
        except OSError as error:
            if error.errno != errno.EINVAL or not _is_direct(handle):
                raise
            fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) & ~DIRECT)
            continue
        data = data[done:]


def _is_direct(handle: int) -> bool:
    return bool(fcntl.fcntl(handle, fcntl.F_GETFL) & DIRECT)
