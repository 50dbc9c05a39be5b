"""Adapters as the folders that vLLM loads: one for each version's digest, for good. Knows files, not what they mean.

vLLM keys cached prefixes by name and path: a path that is a digest makes those content keys.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from adreg.errors import ConflictError, IntegrityError
from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.formats.atomic import atomic_folder
from adreg.formats.digests import file_sha256
from adreg.registry.records import VersionRecord
from adreg.registry.registry import Registry
from adreg.registry.store.blobs import BlobStore

FOLDER = "vllm"


def adapter_folder(registry: Registry, version: VersionRecord) -> Path:
    """The folder with the configuration and the weights of `version`, every byte of them hashed at each call.

    It appears whole or not at all, and is made anew where it was damaged. Raises `IntegrityError` for damaged blobs, and
    `StorageError`.
    """
    folder = registry.settings.home / FOLDER / version.digest.removeprefix("sha256:")
    wanted = {name: version.files[name] for name in (CONFIG, WEIGHTS)}
    if not _is_whole(folder, wanted):
        shutil.rmtree(folder, ignore_errors=True)
        _make(registry.blobs, folder, wanted)
    return folder


def _make(blobs: BlobStore, folder: Path, wanted: Mapping[str, str]) -> None:
    try:
        with atomic_folder(folder) as partial:
            for name, digest in wanted.items():
                if not blobs.link_out(digest, partial / name):
                    blobs.copy_out(digest, partial / name)
    except (ConflictError, OSError):
        if not _is_whole(folder, wanted):  # else another process was faster
            raise


def _is_whole(folder: Path, wanted: Mapping[str, str]) -> bool:
    if not folder.is_dir():
        return False
    if {path.name for path in folder.iterdir()} != set(wanted):
        return False
    try:
        return all(f"sha256:{file_sha256(folder / name)}" == digest for name, digest in wanted.items())
    except OSError as error:
        raise IntegrityError(f"{folder} cannot be read: {error.strerror}") from error
