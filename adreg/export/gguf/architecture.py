"""What the writer must know of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adreg.export.fold.folded import Folded
from adreg.export.tensors import OutputTensor
from adreg.formats.bases.checkpoint import Checkpoint

if TYPE_CHECKING:
    from gguf import GGUFWriter


@dataclass(frozen=True)
class Architecture:
    """`name` is llama.cpp's; `tensors` gives every tensor of a base its place, in the order of llama.cpp's converter;
    `describe` writes the hyperparameters, given the writer, the base and the number of the file type."""

    name: str
    tensors: Callable[[Checkpoint, Mapping[str, Folded]], Iterable[OutputTensor]]
    describe: Callable[[GGUFWriter, Checkpoint, int], None]
