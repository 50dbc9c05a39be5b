"""One thing that one adapter does to one tensor of the base, before it is known what else happens to that tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adreg.export.changes.source import Source
from adreg.export.fold.folded import Update
from adreg.export.fold.lora import LoraUpdate
from adreg.export.fold.rows import RowsUpdate
from adreg.formats.safetensors import TensorView


@dataclass(frozen=True)
class Change:
    """An `update` of the tensor, or a `view` that takes its place. `additive` ones of several adapters add up, any other
    must be alone. `both` says that a tied output head takes it too."""

    tensor: str
    source: Source
    update: Update | None = None
    view: TensorView | None = None
    additive: bool = False
    both: bool = False


def are_same(one: Change, other: Change) -> bool:
    """Whether two changes, the one of an embedding table and the other of the head tied to it, do the same."""
    if one is other:
        return True
    if one.view is not None and other.view is not None:
        return _equal(one.view, other.view)
    match one.update, other.update:
        case LoraUpdate() as table, LoraUpdate() as head:
            return table.factor == head.factor and _is_transposed(table, head)
        case RowsUpdate() as table, RowsUpdate() as head:
            return table.ids == head.ids and _equal(table.rows, head.rows)
    return False


def _equal(one: TensorView, other: TensorView) -> bool:
    return (one.dtype, one.shape, one.data) == (other.dtype, other.shape, other.data)


def _is_transposed(table: LoraUpdate, head: LoraUpdate) -> bool:
    """Whether the A and B of an embedding are the B and A of an output head."""
    embedding, linear = table.module, head.module
    if not embedding.embedding or linear.embedding:
        return False
    return np.array_equal(embedding.a.float32().T, linear.b.float32()) and np.array_equal(
        embedding.b.float32().T, linear.a.float32()
    )
