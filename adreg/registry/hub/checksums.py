"""The hub's two checksums of a file: SHA-256 for large (LFS) ones, git's blob SHA-1 for the others. Knows bytes only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PIECE = 1 << 20


@dataclass(frozen=True)
class Digests:
    """What bytes at hand hash to, in hex."""

    size: int
    sha256: str
    git_sha1: str


@dataclass(frozen=True)
class Checksum:
    """What the hub lists of a file: its size and one of the two digests."""

    size: int
    sha256: str | None
    git_sha1: str | None

    def fits(self, found: Digests) -> bool:
        """Whether bytes with the digests `found` are the listed ones."""
        same = self.sha256 == found.sha256 if self.sha256 else self.git_sha1 == found.git_sha1
        return same and self.size == found.size


def digests_of(source: Path | bytes) -> Digests:
    """The digests of a file, read once, or of bytes. Git's is over a header and the bytes (Git Internals, Git Objects)."""
    if isinstance(source, bytes):
        return _digests(len(source), (source,))
    with source.open("rb") as file:
        return _digests(source.stat().st_size, iter(lambda: file.read(PIECE), b""))


def _digests(size: int, pieces: Iterable[bytes]) -> Digests:
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for piece in pieces:
        sha256.update(piece)
        git.update(piece)
    return Digests(size, sha256.hexdigest(), git.hexdigest())
