"""Files by their SHA-256 under `blobs/sha256/ab/...`: written beside, synced, renamed, never opened for writing again."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from adreg.errors import FormatError, IntegrityError
from adreg.formats.atomic import disk_errors, sync

PIECE = 1 << 20


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
        algorithm, _, value = digest.partition(":")
        return self.home / "blobs" / algorithm / value[:2] / value

    def put(self, source: Path) -> Blob:
        """Copy the file `source` in. Raises `StorageError` (nothing left behind) or `FormatError` if it moves."""
        temporary = self.home / "tmp" / uuid.uuid4().hex
        with disk_errors(self.home):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                digest, size = _copy_hashing(source, temporary)
                return Blob(digest, size, self._publish(temporary, digest))
            finally:
                temporary.unlink(missing_ok=True)

    def _publish(self, temporary: Path, digest: str) -> bool:
        final = self.path(digest)
        if final.exists():
            return False
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.chmod(0o444)
        temporary.rename(final)
        for folder in (final.parent, final.parent.parent):
            sync(folder)
        return True

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def copy_out(self, digest: str, target: Path) -> None:
        """Copy a blob to `target`, checking its bytes. Raises `IntegrityError`."""
        source = self.path(digest)
        if not source.exists():
            raise IntegrityError(f"blob {digest} is missing from {self.home / 'blobs'}")
        found, _ = _copy_hashing(source, target)
        if found != digest:
            raise IntegrityError(f"blob {digest} is damaged: its bytes hash to {found}")


def _copy_hashing(source: Path, target: Path) -> tuple[str, int]:
    """Copy and hash in one pass; the source must be a regular file (no link) and stay the same meanwhile."""
    hasher, size = hashlib.sha256(), 0
    with _open_plain(source) as read, target.open("xb") as written:
        before = os.fstat(read.fileno())
        while piece := read.read(PIECE):
            hasher.update(piece)
            written.write(piece)
            size += len(piece)
        written.flush()
        os.fsync(written.fileno())
        after = os.fstat(read.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != before.st_size:
        raise FormatError(source, "changed while it was being read", "F-MUT-1")
    return f"sha256:{hasher.hexdigest()}", size


def _open_plain(source: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FormatError(source, "is a symbolic link; copy the file itself", "F-DIR-1") from error
        raise
