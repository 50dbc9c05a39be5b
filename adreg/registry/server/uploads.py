"""Blobs on their way in: written to a file of their own, hashed before they are published, kept when cut off.

A published blob that no version names yet is held by a lease of the caller's, so that no clean-up takes it before the
version is posted. Knows bytes and digests, not HTTP.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from adreg.errors import BusyError, StorageError
from adreg.registry.names import one
from adreg.registry.remotes.partials import Partials
from adreg.registry.server.answers import BAD_REQUEST, CONFLICT, ApiError
from adreg.registry.server.limits import Limits
from adreg.registry.store.blobs import BlobStore
from adreg.registry.store.database import transaction
from adreg.registry.store.sqlite import Database

TOO_LARGE = 413
PIECE = 1 << 20
FOLDER = "uploads"
OWNER = "upload"
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True)
class Part:
    """The bytes `start` to `total` of the blob `digest`: what a PUT announces to send. `caller` is who sends them."""

    digest: str
    caller: str
    start: int
    total: int

    @property
    def key(self) -> str:
        return f"{self.digest.removeprefix('sha256:')}-{self.caller}"


@dataclass
class Incoming:
    """A claimed file that grows; `piece` collects what is not written yet."""

    path: Path
    part: Part
    size: int
    piece: bytearray = field(default_factory=bytearray)

    def take(self, chunk: bytes) -> bool:
        """Add what came; whether there is enough to write. Raises a 400 when more comes than was announced."""
        self.piece += chunk
        if self.size + len(self.piece) > self.part.total:
            self.piece.clear()
            raise ApiError(BAD_REQUEST, "wrong_length", f"more than the announced {self.part.total} bytes were sent")
        return len(self.piece) >= PIECE

    def write(self) -> None:
        """Append the collected bytes to the file."""
        if not self.piece:
            return
        with self.path.open("ab") as file:
            file.write(self.piece)
        self.size += len(self.piece)
        self.piece.clear()


def announced(digest: str, caller: str, content_length: str, content_range: str) -> Part:
    """What the headers of a PUT say. Raises a 400 or 411 for lengths that are missing or do not fit each other."""
    if not re.fullmatch("[0-9]{1,18}", content_length, re.ASCII):
        raise ApiError(411, "length_required", "an upload needs a Content-Length")
    length = int(content_length)
    if not content_range:
        return Part(digest, caller, 0, length)
    found = _RANGE.fullmatch(content_range)
    start, end, total = map(int, found.groups()) if found else (0, 0, 0)
    if not found or end + 1 != total or total - start != length:
        message = "Content-Range is bytes START-END/TOTAL, up to the end, and as long as Content-Length"
        raise ApiError(BAD_REQUEST, "wrong_length", message)
    return Part(digest, caller, start, total)


class Uploads:
    """The uploads of one server."""

    def __init__(self, home: Path, limits: Limits) -> None:
        self.home, self.limits = home, limits
        self.partials = Partials(home / "tmp" / FOLDER)
        self._slots = threading.BoundedSemaphore(limits.uploads)

    @contextmanager
    def receive(self, part: Part) -> Iterator[Incoming]:
        """A file that takes the part. Raises a 409 with the offset to go on from when the part does not follow on it."""
        self._check_size(part)
        if not self._slots.acquire(blocking=False):
            raise BusyError("too many uploads at once")
        try:
            with self.partials.claim(part.key) as path:
                size = path.stat().st_size if path.exists() else 0
                if part.start == 0 and size:
                    path.unlink()
                elif part.start != size:
                    message = f"the upload goes on at byte {size}, not {part.start}"
                    raise ApiError(CONFLICT, "wrong_offset", message, headers={"Upload-Offset": str(size)}, offset=size)
                incoming = Incoming(path, part, part.start)
                try:
                    yield incoming
                finally:
                    incoming.write()  # what came before the line broke need not come again
        finally:
            self._slots.release()

    def _check_size(self, part: Part) -> None:
        if part.total > self.limits.blob:
            raise ApiError(TOO_LARGE, "too_large", f"a blob may have {self.limits.blob} bytes, not {part.total}")
        if shutil.disk_usage(self.home).free - (part.total - part.start) < self.limits.disk_reserve:
            raise StorageError(self.home, "too little space is left")

    def publish(self, incoming: Incoming, db: Database, blobs: BlobStore) -> bool:
        """Make a whole upload a blob, under a lease of its caller; whether it is new here. Raises a 400 or 422."""
        part = incoming.part
        if incoming.size != part.total:
            raise ApiError(BAD_REQUEST, "wrong_length", f"{incoming.size} of {part.total} bytes were sent")
        if part.total == 0:
            incoming.path.touch()
        found = _settle(incoming.path)
        if found != part.digest:
            incoming.path.unlink()
            raise ApiError(422, "wrong_digest", f"the bytes sent are {found}, not {part.digest}")
        hold(db, part.caller, part.digest, self.limits.upload_kept_seconds)
        return blobs.publish(incoming.path, part.digest)


def hold(db: Database, caller: str, digest: str, seconds: float) -> None:
    """A lease that outlives the server's process: the version may be posted after a restart."""
    with transaction(db):
        moment, purpose = time.time(), _purpose(caller, digest)
        db.execute("delete from lease where purpose = ?", [purpose])
        row = [f"{OWNER}:0", purpose, moment, moment + seconds]
        db.execute("insert into lease (owner, purpose, taken_at, expires_at) values (?, ?, ?, ?)", row)


def holds(db: Database, caller: str, digest: str) -> bool:
    """Whether this caller uploaded the blob, and it waits for its version."""
    query = "select 1 from lease where purpose = ? and expires_at > ?"
    return one(db, query, [_purpose(caller, digest), time.time()]) is not None


def let_go(db: Database, caller: str, digests: set[str]) -> None:
    """End the leases of blobs that a version names now."""
    with transaction(db):
        for digest in digests:
            db.execute("delete from lease where purpose = ?", [_purpose(caller, digest)])


def _purpose(caller: str, digest: str) -> str:
    return f"upload {caller} {digest}"


def _settle(path: Path) -> str:
    """Sync a file and hash what is in it, from the disk's side: a resumed beginning is not trusted either."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"sha256:{digest}"
