"""The one thing that a remote of objects asks of its store: objects are created once, whole, or not at all.

`BucketStore` is S3 or Google's store through fsspec. Refuses to know what the objects mean; `folder` is the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from adreg.errors import FormatError, RemoteError
from adreg.registry.remotes.objects.errors import AGAIN, Bucket, bucket_errors, is_absent, is_conflict, is_there

JSON_LIMIT = 1 << 20
READ_TOGETHER = 32
PIECE = 8 << 20
PARTS_AT_ONCE = 4
ATTEMPTS = 5


@dataclass(frozen=True)
class Listing:
    """What lies directly under a key: names of `folders`, and `objects`; hostile text, of any kind."""

    folders: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()


class ObjectStore(Protocol):
    """Objects by key. Every method raises `RemoteError` when the store does not answer or refuses."""

    @property
    def url(self) -> str: ...

    def create(self, key: str, content: bytes) -> bool:
        """Make an object that is not there; False, and no change, when there is one."""

    def upload(self, key: str, source: Path) -> bool:
        """`create` from a file of any size."""

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Small objects, None for those that are not there. Raises `FormatError` above `JSON_LIMIT` bytes."""

    def size(self, key: str) -> int | None:
        """The bytes of an object, or None when it is not there."""

    def pieces(self, key: str, start: int, size: int) -> Iterator[bytes]:
        """The bytes of an object of `size` bytes from `start` on."""

    def children(self, key: str) -> Listing:
        """What lies directly under `key` (the root: empty text); an empty listing when nothing does."""


@dataclass(frozen=True)
class BucketStore:
    """A bucket, or a prefix `root` in it, through the fsspec file system `fs`."""

    url: str
    fs: Any
    root: str
    bucket: Bucket

    def create(self, key: str, content: bytes) -> bool:
        return self._created(lambda: self.fs.pipe_file(self._path(key), content, mode="create"))

    def upload(self, key: str, source: Path) -> bool:
        options = {"chunksize": PIECE, "max_concurrency": PARTS_AT_ONCE}
        return self._created(lambda: self.fs.put_file(str(source), self._path(key), mode="create", **options))

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(keys), READ_TOGETHER):
            found += self._read_together(keys[start : start + READ_TOGETHER])
        return found

    def size(self, key: str) -> int | None:
        with bucket_errors(self.bucket, self.url):
            try:
                entry = self.fs.info(self._path(key), refresh=True)
            except FileNotFoundError as error:
                if is_absent(error):
                    return None
                raise
        return int(entry["size"]) if entry["type"] == "file" else None

    def pieces(self, key: str, start: int, size: int) -> Iterator[bytes]:
        for begin in range(start, size, PIECE):
            end = min(begin + PIECE, size)
            with bucket_errors(self.bucket, self.url):
                piece: bytes = self.fs.cat_file(self._path(key), start=begin, end=end)
            if len(piece) != end - begin:
                raise RemoteError(self.url, f"sent {len(piece)} bytes of {key} where {end - begin} were asked for", AGAIN)
            yield piece

    def children(self, key: str) -> Listing:
        path = self._path(key)
        with bucket_errors(self.bucket, self.url):
            try:
                entries = self.fs.ls(path, detail=True, refresh=True)
            except FileNotFoundError as error:
                if is_absent(error):
                    return Listing()
                raise
        named = [(entry["name"].removeprefix(path).strip("/"), entry["type"]) for entry in entries if entry["name"] != path]
        return Listing(
            tuple(name for name, kind in named if kind == "directory"),
            tuple(name for name, kind in named if kind == "file"),
        )

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}" if key else self.root

    def _created(self, request: Callable[[], object]) -> bool:
        """Send a conditional create, again while it meets others; whether it made the object."""
        attempt = 0
        with bucket_errors(self.bucket, self.url):
            while True:
                try:
                    request()
                    return True
                except OSError as error:
                    if is_there(error):
                        return False
                    if not is_conflict(error) or attempt == ATTEMPTS:
                        raise
                attempt += 1
                time.sleep(0.1 * 2**attempt)

    def _read_together(self, keys: Sequence[str]) -> list[bytes | None]:
        """Ask for all at once, and for one byte more than may be there."""
        paths = [self._path(key) for key in keys]
        limits = [JSON_LIMIT + 1] * len(keys)
        with bucket_errors(self.bucket, self.url):
            answers = self.fs.cat_ranges(paths, [0] * len(keys), limits, on_error="return")
            return [self._small(key, answer) for key, answer in zip(keys, answers, strict=True)]

    def _small(self, key: str, answer: bytes | Exception) -> bytes | None:
        if isinstance(answer, Exception):
            if is_absent(answer):
                return None
            raise answer
        return require_small(f"{self.url}/{key}", answer)


def require_small(source: str, content: bytes) -> bytes:
    """`content` itself, unless there is more of it than an object of JSON may hold."""
    if len(content) > JSON_LIMIT:
        raise FormatError(source, f"is larger than {JSON_LIMIT} bytes", "S-OBJ-1")
    return content
