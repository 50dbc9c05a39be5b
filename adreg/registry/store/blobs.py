"""Files by their SHA-256 under `blobs/sha256/ab/...`: written beside, synced, renamed, never opened for writing again."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from adreg.errors import FormatError, IntegrityError
from adreg.formats.atomic import disk_errors, sync
from adreg.registry.store.filesystem import reflink

PIECE = 1 << 20
DIGEST = re.compile("sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Blob:
    """A stored file: `digest` is `sha256:<64 hex>`; `new` tells whether this call stored it."""

    digest: str
    size: int
    new: bool


@dataclass(frozen=True)
class BlobStore:
    """The blobs of one registry."""

    home: Path

    def path(self, digest: str) -> Path:
        """Where the blob lies. Raises `IntegrityError` for text that is no digest: it must never become a path."""
        if not DIGEST.fullmatch(digest):
            raise IntegrityError(f"{digest!r} is no SHA-256 digest")
        value = digest.removeprefix("sha256:")
        return self.home / "blobs" / "sha256" / value[:2] / value

    def put(self, source: Path) -> Blob:
        """Copy the file `source` in. Raises `StorageError` (nothing left behind) or `FormatError` if it moves."""
        with self.temporary() as temporary:
            digest, size = _copy_hashing(source, temporary)
            return Blob(digest, size, self.publish(temporary, digest))

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A new path under `tmp/` to write a blob to, gone afterwards unless it was published."""
        temporary = self.home / "tmp" / uuid.uuid4().hex
        with disk_errors(self.home):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield temporary
            finally:
                temporary.unlink(missing_ok=True)

    def publish(self, temporary: Path, digest: str) -> bool:
        """Move a written and synced file to its place; whether there was none. Call `settle` before a row names it.

        One that is there is replaced by its equal: that heals a damaged one, and its new age keeps a clean-up from it.
        """
        final = self.path(digest)
        new = not final.exists()
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.chmod(0o444)
        temporary.replace(final)
        return new

    def settle(self, digests: Iterable[str]) -> None:
        """Make sure that published blobs keep their names when the power fails."""
        shards = {self.path(digest).parent for digest in digests}
        with disk_errors(self.home):
            for folder in (*sorted(shards), self.home / "blobs" / "sha256", self.home / "blobs", self.home):
                sync(folder)

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def copy_out(self, digest: str, target: Path) -> None:
        """Write a blob to `target`, sharing its blocks where the file system can; every byte is checked. `IntegrityError`."""
        with self.open(digest) as source, target.open("xb") as written:
            hasher = hashlib.sha256()
            shared = reflink(source, written)
            while piece := source.read(PIECE):
                hasher.update(piece)
                if not shared:
                    written.write(piece)
        _require(digest, hasher.hexdigest())

    def check(self, digest: str) -> None:
        """Read every byte of a blob. Raises `IntegrityError` when it is missing or damaged."""
        with self.open(digest) as source:
            _require(digest, hashlib.file_digest(source, "sha256").hexdigest())

    def size(self, digest: str) -> int:
        """The bytes of a blob. Raises `IntegrityError` when it is missing."""
        with self.open(digest) as file:
            return os.fstat(file.fileno()).st_size

    def open(self, digest: str) -> BufferedReader:
        """The blob, open for reading. Raises `IntegrityError` when it is missing."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise IntegrityError(f"blob {digest} is missing from {self.home / 'blobs'}") from None


def _require(digest: str, found: str) -> None:
    if f"sha256:{found}" != digest:
        raise IntegrityError(f"blob {digest} is damaged: its bytes hash to sha256:{found}")


def _copy_hashing(source: Path, target: Path) -> tuple[str, int]:
    """Copy a regular file (no link) that stays the same meanwhile, and hash the copy while the disk writes it."""
    with _open_plain(source) as read, target.open("x+b") as written:
        before = os.fstat(read.fileno())
        size = _copy(read, written, before.st_size)
        with ThreadPoolExecutor(1) as disk:
            synced = disk.submit(os.fsync, written.fileno())
            digest = _hash(written.fileno(), size)
            synced.result()
        after = os.fstat(read.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != before.st_size:
        raise FormatError(source, "changed while it was being read", "F-MUT-1")
    return digest, size


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> int:
    """Copy everything, sharing blocks where the file system can; the number of bytes."""
    if reflink(source, target):
        return os.fstat(target.fileno()).st_size
    buffer, done = bytearray(PIECE), 0
    while count := source.readinto(buffer):  # type: ignore[attr-defined]
        done += target.write(memoryview(buffer)[:count])
    target.flush()
    return done


def _hash(handle: int, size: int) -> str:
    hasher, buffer = hashlib.sha256(), bytearray(PIECE)
    for offset in range(0, size, PIECE):
        count = os.preadv(handle, [buffer], offset)
        hasher.update(memoryview(buffer)[:count])
    return f"sha256:{hasher.hexdigest()}"


def _open_plain(source: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FormatError(source, "is a symbolic link; copy the file itself", "F-DIR-1") from error
        raise
