"""Ollama's store on disk: blobs by digest, and manifests by name, which are written last. Knows files, no server.

Source: ollama 0.33, manifest/paths.go, manifest/layer.go and server/create.go (getExistingName). A server that runs may
show a new model late, for it keeps a list. What a killed write leaves lies in `blobs/`, where Ollama sweeps it up.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from adreg.errors import ConflictError, IntegrityError, StorageError, UsageError
from adreg.export.ollama.blobs import PIECE, Blob
from adreg.export.ollama.image import Image
from adreg.export.ollama.names import ModelName
from adreg.formats.atomic import atomic_file, disk_errors
from adreg.progress import SILENT, Progress

READABLE = 0o644
MARGIN = 1 << 20


@dataclass(frozen=True)
class OllamaStore:
    """The store in `folder`, which a server knows as OLLAMA_MODELS."""

    folder: Path

    @property
    def blobs(self) -> Path:
        return self.folder / "blobs"

    @property
    def manifests(self) -> Path:
        return self.folder / "manifests"

    def check(self) -> None:
        """Raises `UsageError` for the folder above a store."""
        inner = self.folder / "models"
        if inner.is_dir() and not self.manifests.exists():
            raise UsageError(f"{self.folder} is no store of Ollama's", f"use --store {inner}")

    def manifest_of(self, name: ModelName) -> Path:
        """Where the manifest of `name` lies or belongs. As Ollama, it takes names that differ only in case for the same."""
        place = self.manifests
        for part in name.path.parts:
            there = [entry.name for entry in place.iterdir()] if place.is_dir() else []
            same = [entry for entry in there if entry.lower() == part.lower()]
            place /= part if part in there or not same else same[0]
        return place

    def put(self, name: ModelName, image: Image, force: bool = False, progress: Progress = SILENT) -> None:
        """Keep `image` under `name`. Raises `ConflictError` where that is another model (unless `force`), `StorageError`."""
        place = self.manifest_of(name)
        if not force and place.exists() and place.read_bytes() != image.manifest:
            raise ConflictError(f"{self.folder} has a model {name} already", "--force replaces it")
        with disk_errors(self.blobs):
            self.blobs.mkdir(parents=True, exist_ok=True)
        self._check_room(image)
        for blob in image.files:
            if not self._has(blob.digest, blob.size):
                self._copy(blob, progress)
        for digest, content in image.texts.items():
            if not self._has(digest, len(content)):
                self._write(self._place(digest), content)
        self._write(place, image.manifest)

    def _place(self, digest: str) -> Path:
        return self.blobs / digest.replace(":", "-")

    def _has(self, digest: str, size: int) -> bool:
        """Whether the blob is there; one that is gets a new date, which keeps a server that starts from sweeping it up."""
        place = self._place(digest)
        if not place.is_file() or place.stat().st_size != size:
            return False
        with disk_errors(place):
            os.utime(place)
        return True

    def _check_room(self, image: Image) -> None:
        missing = sum(blob.size for blob in image.files if not self._place(blob.digest).exists())
        if missing and shutil.disk_usage(self.blobs).free < missing + MARGIN:
            raise StorageError(self.blobs, f"it needs {missing:,} bytes, more than are free")

    def _copy(self, blob: Blob, progress: Progress) -> None:
        place, digest = self._place(blob.digest), hashlib.sha256()
        with atomic_file(place) as partial, progress.task("copying", blob.size, "B") as task:
            with blob.path.open("rb") as read, partial.open("wb") as written:
                while piece := read.read(PIECE):
                    digest.update(piece)
                    written.write(piece)
                    task.advance(len(piece))
            if f"sha256:{digest.hexdigest()}" != blob.digest:
                raise IntegrityError(f"{blob.path} changed while it was being read")
            partial.chmod(READABLE)

    def _write(self, place: Path, content: bytes) -> None:
        with atomic_file(place, within=self.blobs) as partial:
            partial.write_bytes(content)
            partial.chmod(READABLE)
