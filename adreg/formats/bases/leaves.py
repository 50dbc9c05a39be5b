"""The hashes of single tensors, and what is remembered of files so that they are read once. Knows no names or models.

A leaf is the BLAKE3 of a domain-separated, length-prefixed message: a tensor's type, shape and bytes.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from blake3 import blake3

from adreg.errors import FormatError
from adreg.formats.canonical import canonical_json
from adreg.formats.dtypes import FLOATS, from_float32, to_float32
from adreg.formats.quantised.packed import PackedTensor
from adreg.formats.safetensors import TensorView

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RACY_SECONDS = 2.0
LOADED_IN = os.getpid()
WINDOW_BYTES = 1 << 25
CHUNK_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class Leaf:
    """Two hashes of one tensor: of its stored bytes, and of its values as bfloat16 (the same for BF16 tensors)."""

    stored: str
    values: str


@dataclass(frozen=True)
class FileKey:
    """What must be unchanged for what is remembered of a file to be believed."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileKey:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def racy(self) -> bool:
        """Whether the file is so young that a later change could leave this key as it is."""
        return time.time() - max(self.mtime_ns, self.ctime_ns) / 1e9 < RACY_SECONDS


class LeafCache(Protocol):
    """Remembers a text about a file, by the file's key and the algorithm that made the text."""

    def get(self, key: FileKey, algorithm: str) -> str | None: ...

    def put(self, key: FileKey, algorithm: str, found: str) -> None: ...


def recall(cache: LeafCache | None, status: os.stat_result, algorithm: str) -> str | None:
    """What `cache` knows of the file that has `status`, or None."""
    return None if cache is None else cache.get(FileKey.of(status), algorithm)


def remembered(cache: LeafCache | None, path: Path, status: os.stat_result, algorithm: str, make: Callable[[], str]) -> str:
    """What `make` says of the file at `path`, which had `status` when it was opened: from `cache` where it is known.

    Raises `FormatError` when the file changes meanwhile. A file younger than the clock's grain is not remembered.
    """
    known = recall(cache, status, algorithm)
    if known is not None:
        return known
    found, key = make(), FileKey.of(status)
    if FileKey.of(path.stat()) != key:
        raise FormatError(path, "changed while it was being read", "F-MUT-1")
    if cache is not None and not key.racy:
        cache.put(key, algorithm, found)
    return found


def message(*parts: str | bytes) -> bytes:
    """`parts`, each behind its length in 8 bytes: no two lists of parts make the same bytes."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(len(part).to_bytes(8, "little") + part for part in encoded)


def digest(*parts: str | bytes) -> str:
    """`b3:` and the BLAKE3 of `parts` as one message; the first part names the domain."""
    return "b3:" + blake3(message(*parts)).hexdigest()


def leaf_of(view: TensorView) -> Leaf:
    """The hashes of one tensor, in one pass over its bytes and a bounded share of memory."""
    stored = leaf_hasher(view.dtype, view.shape)
    if view.dtype == "BF16" or view.dtype not in FLOATS:
        for window in view.windows(WINDOW_BYTES):
            stored.update(window)
        return Leaf(stored.hexdigest(), stored.hexdigest())
    values = leaf_hasher("BF16", view.shape)
    for window in view.windows(WINDOW_BYTES):
        stored.update(window)
        for piece in _as_bfloat16(window, view.dtype):
            values.update(piece)
    return Leaf(stored.hexdigest(), values.hexdigest())


def packed_values(packed: PackedTensor, parts: Sequence[TensorView]) -> str:
    """The `Leaf.values` of the float tensor that `packed` means; `parts` are what it is stored in."""
    values = leaf_hasher("BF16", packed.shape)
    rows, width = packed.shape[0], max(math.prod(packed.shape[1:]), 1)
    step = max(CHUNK_ELEMENTS // width, 1)
    for start in range(0, rows, step):
        values.update(from_float32(packed.rows(start, min(start + step, rows)), "BF16"))
        for part in parts:
            part.release()
    return values.hexdigest()


def dump_leaves(leaves: Mapping[str, Leaf]) -> str:
    """`leaves` as JSON; `load_leaves` reads it back."""
    return json.dumps({name: [leaf.stored, leaf.values] for name, leaf in leaves.items()}, separators=(",", ":"))


def load_leaves(text: str) -> dict[str, Leaf]:
    """What `dump_leaves` wrote."""
    return {name: Leaf(*hashes) for name, hashes in json.loads(text).items()}


def leaf_hasher(dtype: str, shape: tuple[int, ...]) -> blake3:
    """A hasher that has read a tensor's type and shape, and takes its bytes next.

    BLAKE3's threads stay behind when a process forks, and the child would wait for them forever: it does without.
    """
    threads = blake3.AUTO if os.getpid() == LOADED_IN else 1
    return blake3(message("adreg.leaf.v1", dtype, canonical_json(list(shape))), max_threads=threads)


def _as_bfloat16(window: memoryview, dtype: str) -> Iterator[bytes | memoryview]:
    import numpy as np

    step = CHUNK_ELEMENTS * (4 if dtype == "F32" else 2)
    for start in range(0, len(window), step):
        piece = window[start : start + step]
        if dtype == "F16":
            yield np.take(_rounded_halves(), np.frombuffer(piece, "<u2")).tobytes()
        else:
            yield from_float32(to_float32(piece, dtype), "BF16")


@cache
def _rounded_halves() -> NDArray[np.uint16]:
    """Every float16 as bfloat16, by its 16 bits: looking them up is three times as fast as converting."""
    import numpy as np

    patterns = np.arange(1 << 16, dtype="<u2").tobytes()
    return np.frombuffer(from_float32(to_float32(memoryview(patterns), "F16"), "BF16"), "<u2")
