"""The ids of a base: what its weights are, by content, whatever the file names, shards, order or metadata.

Every id is `b3:` and the BLAKE3 of a domain-separated, length-prefixed message. A tensor's leaf is the hash of
its type, shape and bytes; `weights_id` ties leaves to raw names, `content_id` forgets names, `values_id` compares
after rounding to bfloat16 and forgets storage type, `arch_id` knows names and shapes only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

from adreg.errors import FormatError
from adreg.formats.canonical import OUTPUT_HEAD, canonical_json, canonical_name, is_buffer
from adreg.formats.checkpoint import Checkpoint
from adreg.formats.dtypes import FLOATS, from_float32, to_float32
from adreg.formats.modelconfig import config_id, ties_embeddings
from adreg.formats.safetensors import SafetensorsFile, TensorView
from adreg.progress import SILENT, Progress

ALGORITHM = "b3.leaf.v1"
RACY_SECONDS = 2.0
CHUNK_ELEMENTS = 1 << 22
EMBEDDINGS = ("embed_tokens.weight", "wte.weight")


@dataclass(frozen=True)
class Leaf:
    """Two hashes of one tensor: of its stored bytes, and of its values as bfloat16 (the same for BF16 tensors)."""

    stored: str
    values: str


@dataclass(frozen=True)
class FileKey:
    """What must be unchanged for the leaves of a file to be taken from the cache."""

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
    """Remembers the leaves of files."""

    def get(self, key: FileKey) -> dict[str, Leaf] | None: ...

    def put(self, key: FileKey, leaves: dict[str, Leaf]) -> None: ...


@dataclass(frozen=True)
class BaseIds:
    """The seven ids of a base card; `None` where the files for it are missing."""

    arch_id: str
    weights_id: str
    content_id: str
    values_id: str
    cfg_id: str
    tok_id: str | None
    tpl_id: str | None


def fingerprint(
    base: Checkpoint, cache: LeafCache | None = None, progress: Progress = SILENT
) -> tuple[BaseIds, dict[str, Leaf]]:
    """The ids of `base` and the leaf of every tensor by raw name. Reads every byte that `cache` does not know."""
    leaves: dict[str, Leaf] = {}
    total = sum(shard.status.st_size for shard in base.shards)
    with progress.task("fingerprint", total, "B") as task:
        for shard in base.shards:
            leaves |= _file_leaves(shard, cache)
            task.advance(shard.status.st_size, shard.path.name)
    return base_ids(base, leaves), leaves


def base_ids(base: Checkpoint, leaves: Mapping[str, Leaf]) -> BaseIds:
    """The ids of `base`, given the leaves of its tensors."""
    names = {name: canonical_name(name) for name in own_tensors(base, leaves)}
    return BaseIds(
        arch_id=architecture_id(base, leaves),
        weights_id=_digest("adreg.w.v1", *_fields((name, leaf.stored) for name, leaf in leaves.items())),
        content_id=_digest("adreg.c.v1", *sorted(leaves[name].stored for name in names)),
        values_id=_digest("adreg.v.v1", *_fields((names[name], leaves[name].values) for name in names)),
        cfg_id=config_id(base.config),
        tok_id=base.tokenizer.tok_id,
        tpl_id=base.tokenizer.tpl_id,
    )


def architecture_id(base: Checkpoint, leaves: Mapping[str, Leaf]) -> str:
    """Names and shapes, without storage types, buffers or a tied head's copy."""
    shapes = sorted([canonical_name(name), list(base[name].shape)] for name in own_tensors(base, leaves))
    return _digest("adreg.arch.v1", canonical_json(shapes))


def own_tensors(base: Checkpoint, leaves: Mapping[str, Leaf]) -> list[str]:
    """Raw names of the tensors that are parameters of their own: no buffers, no copy of tied embeddings."""
    kept = [name for name in base if not is_buffer(name)]
    heads = {name for name in kept if canonical_name(name) == OUTPUT_HEAD}
    embeddings = {leaves[name].values for name in kept if canonical_name(name) in EMBEDDINGS}
    tied = {name for name in heads if ties_embeddings(base.config) or leaves[name].values in embeddings}
    return [name for name in kept if name not in tied]


def leaf_of(view: TensorView) -> Leaf:
    """The hashes of one tensor; one pass for BF16, a second over rounded values for F32 and F16."""
    stored = _leaf(view.dtype, view.shape, [view.data])
    if view.dtype == "BF16" or view.dtype not in FLOATS:
        return Leaf(stored, stored)
    return Leaf(stored, _leaf("BF16", view.shape, _as_bfloat16(view)))


def _as_bfloat16(view: TensorView) -> Iterable[bytes]:
    step = CHUNK_ELEMENTS * (view.nbytes // max(view.count, 1))
    for start in range(0, view.nbytes, max(step, 1)):
        yield from_float32(to_float32(view.data[start : start + step], view.dtype), "BF16")


def _leaf(dtype: str, shape: tuple[int, ...], pieces: Iterable[bytes | memoryview]) -> str:
    head = _message("adreg.leaf.v1", dtype, canonical_json(list(shape)))
    hasher = blake3(head, max_threads=blake3.AUTO)
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()


def _file_leaves(shard: SafetensorsFile, cache: LeafCache | None) -> dict[str, Leaf]:
    key = FileKey.of(shard.status)
    known = None if cache is None else cache.get(key)
    if known is not None and set(known) == set(shard):
        return known
    leaves = {name: leaf_of(view) for name, view in shard.items()}
    if FileKey.of(shard.path.stat()) != key:
        raise FormatError(shard.path, "changed while it was being read", "F-MUT-1")
    if cache is not None and not key.racy:
        cache.put(key, leaves)
    return leaves


def _fields(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [field for pair in sorted(pairs, key=lambda pair: pair[0].encode()) for field in pair]


def _message(*parts: str | bytes) -> bytes:
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(len(part).to_bytes(8, "little") + part for part in encoded)


def _digest(*parts: str | bytes) -> str:
    return "b3:" + blake3(_message(*parts)).hexdigest()
