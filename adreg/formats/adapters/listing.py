"""What lies in an adapter's folder: names, kinds, sizes and first bytes. Follows no link and opens nothing but files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MAGIC_BYTES = 16
ENTRY_LIMIT = 10_000


@dataclass(frozen=True)
class Entry:
    """One name in a folder. `kind` is file, folder, link, hardlink or other; `magic` the first bytes of a file."""

    name: str
    kind: str
    size: int
    magic: bytes

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()


def list_folder(folder: Path) -> tuple[Entry, ...]:
    """Everything under `folder` by its path in it, `ENTRY_LIMIT` names at most."""
    found = [
        _entry(path.relative_to(folder).as_posix(), path) for path, _ in zip(_walk(folder), range(ENTRY_LIMIT), strict=False)
    ]
    return tuple(sorted(found, key=lambda entry: entry.name))


def list_files(files: Mapping[str, Path]) -> tuple[Entry, ...]:
    """The files of a stored version by the names they were pushed under; a store's own hard links are its business."""
    found = [_entry(name, path) for name, path in sorted(files.items())]
    return tuple(Entry(one.name, "file" if one.kind == "hardlink" else one.kind, one.size, one.magic) for one in found)


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _entry(name: str, path: Path) -> Entry:
    status = path.lstat()
    kind = _kind(status)
    magic = _magic(path) if kind in ("file", "hardlink") else b""
    return Entry(name, kind, status.st_size, magic)


def _kind(status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return "link"
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    if not stat.S_ISREG(status.st_mode):
        return "other"
    return "file" if status.st_nlink == 1 else "hardlink"


def _magic(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.read(descriptor, MAGIC_BYTES)
    finally:
        os.close(descriptor)
