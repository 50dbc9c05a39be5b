"""What lies in a registry's folder beside the database: blobs, and what interrupted work left. Knows names, not contents."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DAY = 24 * 3600.0
_VALUE = re.compile(r"[0-9a-f]{64}", re.ASCII)
_EPOCH = re.compile(r"[1-9]\d{0,11}", re.ASCII)
_HALF_WRITTEN = ("*.partial", ".adreg.db.seal.*")


@dataclass(frozen=True)
class Stored:
    """A file with its size in bytes and its age stamp (seconds since 1970)."""

    path: Path
    size: int
    mtime: float


@dataclass(frozen=True)
class StoredFiles:
    """The files of `blobs/` by digest, and what lies there and is no blob."""

    blobs: dict[str, Stored]
    odd: tuple[Path, ...]


def stored_files(home: Path) -> StoredFiles:
    """Look through `blobs/`. Only a plain file at the place that its name gives is a blob."""
    blobs, odd = {}, []
    for path in _files(home / "blobs"):
        value = path.name
        in_place = _VALUE.fullmatch(value) and path.parent == home / "blobs" / "sha256" / value[:2]
        if in_place and not path.is_symlink():
            if stored := _stored(path):
                blobs[f"sha256:{value}"] = stored
        else:
            odd.append(path)
    return StoredFiles(blobs, tuple(sorted(odd)))


def leftovers(home: Path) -> list[Stored]:
    """Half-written files of interrupted work, some of which may still be under way."""
    found = list(_files(home / "tmp"))
    for pattern in _HALF_WRITTEN:
        found += [path for path in home.glob(pattern) if path.name.startswith(".")]
    return [stored for path in sorted(found) if (stored := _stored(path))]


def trashed(home: Path) -> dict[int, list[Stored]]:
    """The files of `trash/` by the moment (seconds since 1970) that they were moved there."""
    folders = [path for path in _entries(home / "trash") if _EPOCH.fullmatch(path.name) and path.is_dir()]
    return {int(folder.name): [stored for path in _files(folder) if (stored := _stored(path))] for folder in sorted(folders)}


def _stored(path: Path) -> Stored | None:
    """The file at `path`, or None when it is gone meanwhile."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return Stored(path, status.st_size, status.st_mtime)


def _files(folder: Path) -> Iterator[Path]:
    """Everything below `folder` that is no folder; links are not followed."""
    for where, folders, names in os.walk(folder):
        yield from (Path(where, name) for name in names)
        yield from (Path(where, name) for name in folders if Path(where, name).is_symlink())


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
