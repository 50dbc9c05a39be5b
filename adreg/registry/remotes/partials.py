"""Transfers that were cut off, kept to be gone on with. One owner at a time, by renaming: no lock to lie or to be left."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from adreg.formats.atomic import disk_errors

_KEY = re.compile(r"[0-9a-z-]{1,160}", re.ASCII)


@dataclass(frozen=True)
class Partials:
    """The beginnings of files in `folder`, each under a key that says what it is the beginning of."""

    folder: Path

    def size(self, key: str) -> int:
        """How many bytes of `key` are here to go on from."""
        try:
            return self._kept(key).stat().st_size
        except FileNotFoundError:
            return 0

    @contextmanager
    def claim(self, key: str) -> Iterator[Path]:
        """A path that is this caller's alone: what is kept of `key`, or nothing yet. Whoever ends it keeps the rest.

        A caller that is done has renamed or removed the file; one that was interrupted leaves it, and it is kept.
        """
        kept = self._kept(key)
        mine = self.folder / f"{key}.{os.getpid()}.{uuid.uuid4().hex}"
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for beginning in (kept, *self._orphans(key)):
                if not mine.exists():
                    with suppress(FileNotFoundError):  # another was faster
                        beginning.rename(mine)
            try:
                yield mine
            finally:
                with suppress(FileNotFoundError):
                    self._keep(mine, kept)

    def _orphans(self, key: str) -> list[Path]:
        """The files of owners that were killed."""
        found = self.folder.glob(f"{key}.*.*")
        return sorted(path for path in found if not _lives(path.name.split(".")[1]))

    def _keep(self, mine: Path, kept: Path) -> None:
        """Of two beginnings the longer one stays."""
        size = mine.stat().st_size
        if size and (not kept.exists() or kept.stat().st_size < size):
            mine.replace(kept)
        else:
            mine.unlink()

    def _kept(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key")
        return self.folder / key


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        return True
    return True
