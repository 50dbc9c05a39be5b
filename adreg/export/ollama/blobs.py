"""GGUF files by their content, as Ollama names them. Knows bytes, not what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adreg.formats.gguf.header import GgufFile
from adreg.progress import SILENT, Progress

PIECE = 1 << 20


@dataclass(frozen=True)
class Blob:
    """A file of `size` bytes; `digest` is `sha256:<64 hex>`."""

    path: Path
    digest: str
    size: int


def hashed(files: Iterable[GgufFile], progress: Progress = SILENT) -> list[Blob]:
    """Read `files` whole, for their digests."""
    return [_hashed(file, progress) for file in files]


def _hashed(file: GgufFile, progress: Progress) -> Blob:
    digest, size = hashlib.sha256(), 0
    with file.path.open("rb") as read, progress.task("hashing", file.status.st_size, "B") as task:
        while piece := read.read(PIECE):
            digest.update(piece)
            size += len(piece)
            task.advance(len(piece))
    return Blob(file.path, f"sha256:{digest.hexdigest()}", size)
