"""Copies of files that may not be trusted to stay as they are, hashed while the disk writes them."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from adreg.errors import FormatError
from adreg.registry.store.filesystem import reflink

PIECE = 1 << 20


@dataclass(frozen=True)
class Copy:
    """A copy of `size` bytes at `path`, being hashed and synced."""

    path: Path
    size: int
    hashed: Future[str]
    synced: Future[None]

    def digest(self) -> str:
        """`sha256:<64 hex>` of the copy, once it is on the disk."""
        self.synced.result()
        return self.hashed.result()


def copy_file(source: Path, target: Path, workers: Executor) -> Copy:
    """Copy a regular file (no link) that stays the same meanwhile; `workers` hash and sync the copy."""
    with _open_plain(source) as read, target.open("xb") as written:
        before = os.fstat(read.fileno())
        size = _copy(read, written)
        after = os.fstat(read.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != before.st_size:
        raise FormatError(source, "changed while it was being read", "F-MUT-1")
    return Copy(target, size, workers.submit(_hash, target), workers.submit(_sync, target))


def _copy(source: BinaryIO, target: BinaryIO) -> int:
    """Copy everything, sharing blocks where the file system can; the number of bytes."""
    if reflink(source, target):
        return os.fstat(target.fileno()).st_size
    buffer, done = bytearray(PIECE), 0
    while count := source.readinto(buffer):  # type: ignore[attr-defined]
        done += target.write(memoryview(buffer)[:count])
    target.flush()
    return done


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _sync(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _open_plain(source: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FormatError(source, "is a symbolic link; copy the file itself", "F-DIR-1") from error
        raise
