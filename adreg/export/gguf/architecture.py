"""What the writer must know of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adreg.export.fold import Folded
from adreg.export.tensors import PlannedTensor
from adreg.formats.bases.checkpoint import Checkpoint

if TYPE_CHECKING:
    from gguf import GGUFWriter


@dataclass(frozen=True)
class Architecture:
    """`name` is llama.cpp's; `tensors` plans the output of a base for a quant; `describe` writes the hyperparameters,
    given the writer, the base and the number of its file type."""

    name: str
    tensors: Callable[[Checkpoint, Mapping[str, Folded], str], Iterable[PlannedTensor]]
    describe: Callable[[GGUFWriter, Checkpoint, int], None]
