"""Several adapters combined in the weights of the base, without a new adapter in between: exact for every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from adreg.errors import UnsupportedError
from adreg.export.changes.change import Change
from adreg.export.combine.factors import LowRank, concatenated, truncated
from adreg.export.combine.settings import Combination
from adreg.export.combine.sparse import SparseUpdate
from adreg.export.fold.folded import Update
from adreg.export.fold.lora import LoraUpdate, ProductUpdate


def joined(changes: Sequence[Change], combination: Combination, shape: tuple[int, ...]) -> tuple[Update, ...]:
    """The updates of one tensor of `shape` as `combination` joins them; those of a plain sum as they are.

    Raises `UnsupportedError` by name for what is no plain LoRA.
    """
    if combination.is_sum:
        return tuple(change.update for change in changes if change.update is not None)
    parts = [(change, _plain(change, combination)) for change in changes]
    if combination.method.is_sparse:
        unweighted = tuple(replace(update, factor=update.module.scaling) for _, update in parts)
        return (SparseUpdate(unweighted, tuple(change.source.weight for change, _ in parts), combination, shape),)
    return (_nearest([update for _, update in parts], combination.rank),)


def _plain(change: Change, combination: Combination) -> LoraUpdate:
    if not isinstance(change.update, LoraUpdate):
        why = f"{combination.method} of {change.source.label}, which does more to {change.tensor!r} than LoRA does,"
        raise UnsupportedError(why, "merge it by itself")
    return change.update


def _nearest(updates: Sequence[LoraUpdate], rank: int | None) -> ProductUpdate:
    """The nearest update of `rank` to the sum, or of the largest of their ranks."""
    wanted = rank or max(update.module.rank for update in updates)

    @cache
    def found() -> LowRank:
        factors = [(update.module.b.float32(), update.module.a.float32(), update.factor) for update in updates]
        return truncated(concatenated(factors), wanted)

    label = ", ".join(update.label for update in updates)
    return ProductUpdate(lambda: found().right, lambda: found().left, 1.0, label, updates[0].transposed)
