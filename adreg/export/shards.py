"""Which weights file of a checkpoint folder holds which tensors: the base's own files, or as many as a size limit asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from adreg.export.tensors import PlannedTensor
from adreg.formats.bases.checkpoint import INDEX, SINGLE, Checkpoint
from adreg.formats.strictjson import JsonObject, read_object


@dataclass(frozen=True)
class Shard:
    """A weights file to be written: its name, its tensors in the order of their bytes, its metadata."""

    name: str
    tensors: tuple[PlannedTensor, ...]
    metadata: dict[str, str]


def shards_of(base: Checkpoint, tensors: Sequence[PlannedTensor], limit: int | None = None) -> tuple[Shard, ...]:
    """`tensors` in the files of `base`, new ones in the last; or, with a `limit`, in files of at most so many bytes, but for
    a tensor that alone is larger."""
    metadata = base.shards[0].metadata
    if limit is None:
        own = [[tensor for tensor in tensors if tensor.name in shard] for shard in base.shards]
        own[-1] += [tensor for tensor in tensors if tensor.name not in base]
        return tuple(Shard(old.path.name, tuple(new), old.metadata) for old, new in zip(base.shards, own, strict=True))
    parts: list[list[PlannedTensor]] = [[]]
    for tensor in tensors:
        if parts[-1] and sum(other.nbytes for other in parts[-1]) + tensor.nbytes > limit:
            parts.append([])
        parts[-1].append(tensor)
    if len(parts) == 1:
        return (Shard(SINGLE, tuple(parts[0]), metadata),)
    names = [f"model-{number:05}-of-{len(parts):05}.safetensors" for number in range(1, len(parts) + 1)]
    return tuple(Shard(name, tuple(part), metadata) for name, part in zip(names, parts, strict=True))


def index_of(base: Checkpoint, shards: Sequence[Shard]) -> str | None:
    """The text of the index of `shards`, or None for a single file that needs none."""
    if [shard.name for shard in shards] == [SINGLE]:
        return None
    tensors = [tensor for shard in shards for tensor in shard.tensors]
    sizes = {"total_size": sum(tensor.nbytes for tensor in tensors)}
    if "total_parameters" in _metadata(base):
        sizes["total_parameters"] = sum(tensor.output.count for tensor in tensors)
    where = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    index = {"metadata": _metadata(base) | sizes, "weight_map": dict(sorted(where.items()))}
    return json.dumps(index, ensure_ascii=False, indent=2) + "\n"


def _metadata(base: Checkpoint) -> JsonObject:
    path = base.folder / INDEX
    found = read_object(path, "B-IDX-1", limit=50_000_000).get("metadata") if path.is_file() else None
    return found if isinstance(found, dict) else {}
