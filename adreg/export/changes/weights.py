"""The weights of a base under the names that adapters use, and whether its output head is its embedding table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.fingerprint import EMBEDDINGS
from adreg.formats.canonical import OUTPUT_HEAD, canonical_name
from adreg.formats.safetensors import TensorView

TABLES = (*EMBEDDINGS, "wpe.weight")
# modules that transformers 5 calls otherwise than the checkpoint does; transformers conversion_mapping.py
RENAMED = {"mixtral": (".mlp.", ".block_sparse_moe.")}


def is_tied(base: Checkpoint) -> bool:
    """Whether the output head is the embedding table: so configured, or no head in the files."""
    return base.config.get("tie_word_embeddings") is True or OUTPUT_HEAD not in map(canonical_name, base)


@dataclass(frozen=True)
class Weights:
    """The tensors of `base`. One with tied embeddings has an output head all the same: its embedding table."""

    base: Checkpoint

    @cached_property
    def tied(self) -> bool:
        return is_tied(self.base)

    @cached_property
    def table(self) -> str | None:
        """The name of the embedding table of the tokens."""
        return next((name for name in self.base if canonical_name(name) in EMBEDDINGS), None)

    @cached_property
    def head(self) -> str:
        """The name of the output head, whether the files hold one or not."""
        return self._names.get(OUTPUT_HEAD, OUTPUT_HEAD)

    def find(self, parameter: str) -> str | None:
        """The base's own name of the parameter that an adapter calls `parameter`."""
        for name in (parameter, parameter.replace(*RENAMED.get(self.base.model_type, ("", "")), 1)):
            found = self._names.get(name) or self._names.get(canonical_name(name))
            if found:
                return found
        return self.head if self.tied and self.table and canonical_name(parameter) == OUTPUT_HEAD else None

    def view(self, name: str) -> TensorView:
        """The tensor that the model uses under the base's name `name`."""
        return self.base[self.table if self.tied and self.table and name == self.head else name]

    def is_transposed(self, name: str) -> bool:
        """Whether the base stores the weight `name` as (in, out): Conv1D and embedding tables."""
        return canonical_name(name) in TABLES or self.base.is_conv1d(name.removesuffix(".weight"))

    @cached_property
    def _names(self) -> dict[str, str]:
        return {canonical_name(name): name for name in self.base} | {name: name for name in self.base}
