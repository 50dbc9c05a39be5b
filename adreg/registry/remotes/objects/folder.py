"""A folder as an object store, such as a mounted share: objects appear whole, once, and never through a link.

fsspec's own `file` knows no exclusive create that is whole at once, so this is the system's own: written beside, then
linked to its name. Refuses to know what the objects mean.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from adreg.errors import RemoteError
from adreg.formats.atomic import sync
from adreg.registry.remotes.objects.store import JSON_LIMIT, PIECE, Listing, require_small

UNFINISHED = ".adreg-unfinished"
ABANDONED_SECONDS = 24 * 3600
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True)
class FolderStore:
    """The folder `root`, which is made when the first object is."""

    url: str
    root: Path

    def create(self, key: str, content: bytes) -> bool:
        return self._created(key, lambda file: file.write(content))

    def upload(self, key: str, source: Path) -> bool:
        def copy(file: BinaryIO) -> None:
            with source.open("rb") as read:
                shutil.copyfileobj(read, file, PIECE)

        return self._created(key, copy)

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._read(key) for key in keys]

    def size(self, key: str) -> int | None:
        with self._errors():
            file = self._open(key)
            if file is None:
                return None
            with file:
                return os.fstat(file.fileno()).st_size

    def pieces(self, key: str, start: int, size: int) -> Iterator[bytes]:
        with self._errors():
            file = self._open(key)
            if file is None:
                raise RemoteError(self.url, f"{key} went away while it was read")
            with file:
                file.seek(start)
                while start < size:
                    piece = file.read(min(PIECE, size - start))
                    if not piece:
                        raise RemoteError(self.url, f"{key} ends after {start} of {size} bytes")
                    start += len(piece)
                    yield piece

    def children(self, key: str) -> Listing:
        with self._errors():
            folder = self._inside(self.root / key)
            if not folder.is_dir():
                return Listing()
            with os.scandir(folder) as entries:
                kinds = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries if entry.name != UNFINISHED]
        return Listing(tuple(name for name, kind in kinds if kind), tuple(name for name, kind in kinds if not kind))

    def _read(self, key: str) -> bytes | None:
        with self._errors():
            file = self._open(key)
            if file is None:
                return None
            with file:
                return require_small(f"{self.url}/{key}", file.read(JSON_LIMIT + 1))

    def _open(self, key: str) -> BinaryIO | None:
        """A regular file, open for reading, or None when there is nothing."""
        path = self.root / key
        try:
            file = os.fdopen(os.open(self._inside(path.parent) / path.name, PLAIN), "rb")
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
        raise RemoteError(self.url, f"{key} is no regular file", "remove it there")

    def _created(self, key: str, write: Callable[[BinaryIO], object]) -> bool:
        """Write beside, sync, and link to the name, which fails when it is taken."""
        path = self.root / key
        with self._errors():
            if os.path.lexists(self._inside(path.parent) / path.name):
                return False
            with self._unfinished() as unfinished:
                with unfinished.open("xb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                return self._linked(unfinished, path)

    def _linked(self, unfinished: Path, path: Path) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.chmod(0o444)
        try:
            os.link(unfinished, path)
        except FileExistsError:
            return False
        for folder in path.relative_to(self.root).parents:
            sync(self.root / folder)
        return True

    @contextmanager
    def _unfinished(self) -> Iterator[Path]:
        """A new path for an object in the making; what killed writers left long ago goes."""
        folder = self.root / UNFINISHED
        _make_folders(folder)
        for left in self._inside(folder).iterdir():
            with suppress(FileNotFoundError):  # its writer has finished meanwhile
                if left.lstat().st_mtime < time.time() - ABANDONED_SECONDS:
                    left.unlink()
        path = folder / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _inside(self, folder: Path) -> Path:
        """`folder` itself, unless a link leads from it to somewhere else."""
        expected = Path(os.path.realpath(self.root)) / folder.relative_to(self.root)
        if Path(os.path.realpath(folder)) != expected:
            raise RemoteError(self.url, f"{folder.relative_to(self.root)} is a symbolic link", "adreg never follows them")
        return folder

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RemoteError(self.url, f"the folder does not work: {error.strerror}", _hint(error)) from error


def _make_folders(folder: Path) -> None:
    """Make `folder` and what leads to it, so that they last."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync(each.parent)


def _hint(error: OSError) -> str:
    if error.errno in NO_LINKS:
        return "it may not be yours; or its file system has no hard links, which adreg needs there"
    if error.errno in (errno.EACCES, errno.EROFS):
        return "check who may write there"
    return "check that it is there and has space left"
