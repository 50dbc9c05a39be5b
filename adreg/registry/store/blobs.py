"""Files by their SHA-256 under `blobs/sha256/ab/...`: written beside, synced, renamed, never opened for writing again."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from adreg.errors import IntegrityError
from adreg.formats.atomic import disk_errors, sync
from adreg.registry.store.copies import PIECE, Copy, copy_file
from adreg.registry.store.filesystem import reflink

UNSHARED = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
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
        with self.staged({"": source}) as copies:
            blob = self.planned(copies[""])
            self.publish(copies[""].path, blob.digest)
            return blob

    @contextmanager
    def staged(self, sources: Mapping[str, Path]) -> Iterator[dict[str, Copy]]:
        """Copies of files under `tmp/`, hashed and synced while the caller looks at them; gone unless published."""
        with ExitStack() as stack, disk_errors(self.home):
            workers = stack.enter_context(ThreadPoolExecutor(2))
            yield {name: copy_file(source, stack.enter_context(self.temporary()), workers) for name, source in sources.items()}

    def planned(self, copy: Copy) -> Blob:
        """The blob that a staged copy will be when it is published."""
        digest = copy.digest()
        return Blob(digest, copy.size, not self.path(digest).exists())

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A new path under `tmp/` to write a blob to, gone afterwards unless it was published."""
        temporary = self.home / "tmp" / uuid.uuid4().hex
        with disk_errors(self.home):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield temporary
            finally:
                with suppress(OSError):  # a clean-up takes what cannot go now; what is committed has not failed
                    temporary.unlink()

    def publish(self, temporary: Path, digest: str) -> bool:
        """Move a written and synced file to its place; whether there was none. Call `settle` before a row names it.

        One that is there is replaced by its equal: that heals a damaged one, and its new age keeps a clean-up from it.
        """
        final = self.path(digest)
        new = not final.exists()
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.chmod(0o444)
        _age(temporary)
        temporary.replace(final)
        return new

    def renew(self, digest: str) -> bool:
        """Give a stored blob a new age, so that a clean-up leaves it to the caller's lease; False where there is none."""
        try:
            _age(self.path(digest))
        except FileNotFoundError:
            return False
        return True

    def any(self) -> bool:
        """Whether any blob was ever stored."""
        folder = self.home / "blobs" / "sha256"
        return folder.is_dir() and any(folder.iterdir())

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

    def link_out(self, digest: str, target: Path) -> bool:
        """Make `target` another name of the blob itself, checked; False where the file system does not share files."""
        self.check(digest)
        try:
            os.link(self.path(digest), target)
        except OSError as error:
            if error.errno in UNSHARED:
                return False
            raise
        return True

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


def _age(path: Path) -> None:
    """Date a file with this machine's clock, which leases are taken by; a file server's may differ."""
    now = time.time()
    os.utime(path, (now, now))


def _require(digest: str, found: str) -> None:
    if f"sha256:{found}" != digest:
        raise IntegrityError(f"blob {digest} is damaged: its bytes hash to sha256:{found}")
