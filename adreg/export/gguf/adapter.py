"""A LoRA as a GGUF adapter for `llama-server --lora`: A and B under the names of the base's GGUF tensors.

Format: llama.cpp src/llama-adapter.cpp: an update counts alpha / rank, the rank being that of its B. Where every module
has one scaling of that form, alpha says it; else alpha is the largest and the rest goes into each B. (0 would mean 1.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adreg.errors import UnsupportedError
from adreg.export.fold.folded import Folded
from adreg.export.fold.lora import LoraUpdate
from adreg.export.tensors import OutputTensor, Transform
from adreg.formats.dtypes import Float32

if TYPE_CHECKING:
    from gguf import GGUFWriter

MERGE = "merge it instead: adreg merge --to gguf"
TRANSPOSED = Transform(lambda values: values.T, group=0, transposes=True)


@dataclass(frozen=True)
class Scaled:
    """B times `factor`: what alpha / rank does not say."""

    factor: float
    label: str

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        values *= np.float32(self.factor)
        return values


@dataclass(frozen=True)
class GgufAdapter:
    """The tensors of an adapter file, a pair for each adapted tensor of the base, and the alpha that goes with them."""

    tensors: tuple[OutputTensor, ...]
    alpha: float


def plan_adapter(outputs: Iterable[OutputTensor], folds: Mapping[str, Folded]) -> GgufAdapter:
    """The adapter file for what `folds` adds to the base whose GGUF tensors are `outputs`.

    Raises `UnsupportedError` for everything that A and B alone cannot say.
    """
    pairs = [(output, _update(output)) for output in outputs if output.adapted]
    placed = {output.folded.name for output, _ in pairs if output.folded}
    for fold in folds.values():
        if fold.adapted and fold.name not in placed:
            raise UnsupportedError(
                f"a GGUF adapter with an update of {fold.name!r}, which its base's GGUF does not hold,", MERGE
            )
    alpha = max((update.factor * update.module.rank for _, update in pairs), key=abs, default=0.0)
    if not alpha:
        raise UnsupportedError("a GGUF adapter that does nothing", "give it a weight other than 0")
    return GgufAdapter(tuple(tensor for output, update in pairs for tensor in _pair(output, update, alpha)), alpha)


def write_adapter_fields(writer: GGUFWriter, alpha: float) -> None:
    """The `adapter.*` keys."""
    from gguf import Keys

    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, alpha)


def _update(output: OutputTensor) -> LoraUpdate:
    """The one LoRA that `output` takes."""
    updates = output.folded.updates if output.folded else ()
    first = updates[0] if updates else None
    if len(updates) > 1:
        labels = " and ".join(update.label for update in updates)
        raise UnsupportedError(f"one GGUF adapter of {labels}", "combine them first: adreg merge --to adapter")
    if not isinstance(first, LoraUpdate):
        raise UnsupportedError(f"a GGUF adapter with what {output.name} takes, which is no plain LoRA,", MERGE)
    moved = output.transform
    if moved and not (moved.rows_only or moved.transposes):
        raise UnsupportedError(f"a GGUF adapter with an update of {output.name}, whose values GGUF changes,", MERGE)
    return first


def _pair(output: OutputTensor, update: LoraUpdate, alpha: float) -> Iterator[OutputTensor]:
    """`lora_a` (rank, in) and `lora_b` (out, rank); of an embedding, A is stored a row a token."""
    a, b, factor = update.module.a, update.module.b, update.factor * update.module.rank / alpha
    rows = output.transform if output.transform and output.transform.rows_only else None
    flipped = TRANSPOSED if update.module.embedding else None
    scaled = () if factor == 1 else (Scaled(factor, update.label),)
    yield OutputTensor(f"{output.name}.lora_a", a.shape[::-1] if flipped else a.shape, Folded(a.name, a, a.dtype), flipped)
    yield OutputTensor(f"{output.name}.lora_b", b.shape, Folded(b.name, b, b.dtype, scaled), rows)
