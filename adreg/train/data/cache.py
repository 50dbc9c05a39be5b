"""Encoded rows in one memory-mapped file each, kept by what decides them. Knows arrays, not where they come from.

A file is `MAGIC`, the length of a JSON header, the header (padded), and little-endian arrays: int32 ids of all rows end to
end, int32 labels, int64 starts of the rows and their end, int64 lines. One that is damaged, or of another make, is no file.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from adreg.errors import StorageError
from adreg.formats.atomic import atomic_file
from adreg.settings import Settings
from adreg.train.data.encode import Example, Ids

MAGIC, VERSION, ALIGNMENT = b"ADREGTOK", 1, 64
BYTES_KEPT = 4 << 30
SUFFIX = ".tokens"
Array = NDArray[Any]


@dataclass(frozen=True)
class Tokens(Sequence[Example]):
    """The examples of one file of rows, as views of four arrays."""

    path: Path
    ids: Ids
    labels: Ids
    starts: NDArray[np.int64]
    lines: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each example."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, row: int) -> Example: ...
    @overload
    def __getitem__(self, row: slice) -> list[Example]: ...
    def __getitem__(self, row: int | slice) -> Example | list[Example]:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        start, end = self.starts[row], self.starts[row + 1]
        return Example(self.path, int(self.lines[row]), self.ids[start:end], self.labels[start:end])

    def __iter__(self) -> Iterator[Example]:
        return (self[row] for row in range(len(self)))


def lay(path: Path, examples: Sequence[Example]) -> Tokens:
    """`examples` end to end."""
    empty = [np.zeros(0, np.int32)]
    return Tokens(
        path=path,
        ids=np.concatenate([example.ids for example in examples] or empty),
        labels=np.concatenate([example.labels for example in examples] or empty),
        starts=np.cumsum([0, *(len(example.ids) for example in examples)], dtype=np.int64),
        lines=np.array([example.line for example in examples], dtype=np.int64),
    )


class TokenCache:
    """The files under `folder`. What cannot be stored is no error: it is then made again the next time."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Settings.from_environment().home / "cache" / "tokens"

    def get(self, key: str, path: Path) -> tuple[Tokens, dict[str, Any]] | None:
        """What was put under `key`, mapped, or None where there is none or it is damaged. `path` is where its rows are now."""
        place = self.folder / f"{key}{SUFFIX}"
        try:
            with place.open("rb") as file:
                held = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            found = _parsed(held, key, path)
            os.utime(place)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found

    def put(self, key: str, tokens: Tokens, told: dict[str, Any]) -> None:
        """Keep `tokens` and `told` under `key`; the files that were used least lately make room."""
        raw: list[Array] = [tokens.ids.astype("<i4", copy=False), tokens.labels.astype("<i4", copy=False)]
        raw += [tokens.starts.astype("<i8", copy=False), tokens.lines.astype("<i8", copy=False)]
        head = {"version": VERSION, "key": key, "told": told, "tokens": len(tokens.ids), "rows": len(tokens)}
        header = json.dumps({**head, "digest": _digest(raw)}).encode()
        header += b" " * (-(len(header) + 16) % ALIGNMENT)
        with suppress(StorageError), atomic_file(self.folder / f"{key}{SUFFIX}") as partial, partial.open("wb") as file:
            file.write(MAGIC + len(header).to_bytes(8, "little") + header)
            for array in raw:
                file.write(array.tobytes())
                file.write(b"\0" * (-array.nbytes % 8))
        self._make_room()

    def _make_room(self) -> None:
        with suppress(OSError):
            files = [(file.stat(), file) for file in self.folder.glob(f"*{SUFFIX}")]
            kept = 0
            for stat, file in sorted(files, key=lambda one: -one[0].st_mtime):
                kept += stat.st_size
                if kept > BYTES_KEPT:
                    file.unlink(missing_ok=True)


def _digest(arrays: Sequence[Array]) -> str:
    hasher = blake3()
    for array in arrays:
        if array.size:
            hasher.update(array.data.cast("B"))
    return hasher.hexdigest()


def _parsed(held: memoryview, key: str, path: Path) -> tuple[Tokens, dict[str, Any]]:
    """The arrays in `held`. Raises `ValueError`, `KeyError` or `TypeError` where it is not what it should be."""
    size = int.from_bytes(held[8:16], "little")
    if bytes(held[:8]) != MAGIC or size > len(held):
        raise ValueError("no token file")
    head = json.loads(bytes(held[16 : 16 + size]))
    if head["version"] != VERSION or head["key"] != key:
        raise ValueError("another token file")
    at, arrays = 16 + size, []
    for kind, count in (("<i4", head["tokens"]), ("<i4", head["tokens"]), ("<i8", head["rows"] + 1), ("<i8", head["rows"])):
        array = np.frombuffer(held, kind, count, at)
        at += array.nbytes + (-array.nbytes % 8)
        arrays.append(array)
    if at != len(held) or head["digest"] != _digest(arrays):
        raise ValueError("a damaged token file")
    return Tokens(path, *arrays), head["told"]
