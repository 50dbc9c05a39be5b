"""The modules of several adapters, joined by name: what the combined adapter holds for each. Plans, then computes lazily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adreg.errors import FormatError, UnsupportedError
from adreg.export.changes.source import Source
from adreg.export.combine.factors import LowRank, concatenated, nearest, truncated
from adreg.export.combine.settings import Combination, Method
from adreg.export.combine.sparse import SparseUpdate
from adreg.export.fold.lora import LoraUpdate
from adreg.formats.adapters.adapter import Adapter, LoraModule

Part = tuple[Source, LoraModule]


@dataclass(frozen=True)
class JoinedModule:
    """One module of the result, and the modules of the sources that go into it: all update a weight of one shape."""

    name: str
    embedding: bool
    parts: tuple[Part, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the update."""
        first = self.parts[0][1]
        return first.b.shape[0], first.a.shape[1]

    @property
    def largest_rank(self) -> int:
        return max(module.rank for _, module in self.parts)

    def combined(self, combination: Combination) -> LowRank:
        """The module's update by `combination`, its scaling included."""
        if combination.method.is_sparse:
            return nearest(self._sparse(combination).rows(0, self.shape[0]), combination.rank or self.largest_rank)
        factors = [(part.b.float32(), part.a.float32(), source.weight * part.scaling) for source, part in self.parts]
        whole = concatenated(factors)
        if combination.method is Method.CAT:
            return whole
        wanted = combination.rank or self.largest_rank
        return truncated(whole, wanted if combination.method is Method.SVD else None)

    def _sparse(self, combination: Combination) -> SparseUpdate:
        updates = tuple(LoraUpdate(module, module.scaling, source.label) for source, module in self.parts)
        return SparseUpdate(updates, tuple(source.weight for source, _ in self.parts), combination, self.shape)


def join_modules(sources: Sequence[Source]) -> tuple[JoinedModule, ...]:
    """Every module of every source, by name. Raises `UnsupportedError` for what is not plain LoRA, `FormatError` where
    two sources disagree about the shape of a weight."""
    parts: dict[str, list[Part]] = {}
    for source in sources:
        _check_plain(source)
        for module in source.adapter.modules:
            parts.setdefault(module.name, []).append((source, module))
    joined = [JoinedModule(name, found[0][1].embedding, tuple(found)) for name, found in sorted(parts.items())]
    for one in joined:
        _check_shapes(one)
    return tuple(joined)


def _check_plain(source: Source) -> None:
    adapter = source.adapter
    if not isinstance(adapter, Adapter):
        raise UnsupportedError(f"combining {source.label}: a {source.family.kind} adapter", "merge it into the base by itself")
    if adapter.features:
        way_out = "merge it into the base by itself, or combine adapters of plain LoRA"
        raise UnsupportedError(f"combining {source.label}, which uses {', '.join(adapter.features)},", way_out)
    odd = (*adapter.foreign, *adapter.unpaired)
    if odd or not adapter.modules:
        why = f"{odd[0]!r} is no LoRA module of it" if odd else "holds no LoRA module"
        raise FormatError(adapter.file.path, why, "K-KEY-1")


def _check_shapes(joined: JoinedModule) -> None:
    for source, module in joined.parts:
        if (module.b.shape[0], module.a.shape[1]) != joined.shape or module.embedding != joined.embedding:
            why = f"updates {joined.name!r} with shape {(module.b.shape[0], module.a.shape[1])}; another has {joined.shape}"
            raise FormatError(source.adapter.file.path, why, "B-SHP-2")
