"""Updates by a product of two low-rank matrices: LoRA on a linear layer, a Conv1D, an embedding or an output head,
and whatever else comes down to W + factor * (B @ A): AdaLoRA, VeRA, one expert of a stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adreg.formats.adapters.adapter import LoraModule
from adreg.formats.dtypes import Float32


@dataclass(frozen=True)
class LoraUpdate:
    """`factor` is the user's weight times the module's own scaling.

    `transposed` says that the base stores the tensor as (in, out), as Conv1D weights and embeddings are: there the
    update is (B @ A)^T. A and B are read for every block anew: no merge holds a whole adapter in memory.
    Source: peft tuners/lora/layer.py, `get_delta_weight`.
    """

    module: LoraModule
    factor: float
    label: str
    transposed: bool = False

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        """Add the update of rows `start:stop` to `values`, which are those rows; in place."""
        return _add_product(values, self._a, self._b, self.factor, self.transposed, start, stop)

    @property
    def _a(self) -> Float32:
        return self.module.a.float32()

    @property
    def _b(self) -> Float32:
        return self.module.b.float32()


@dataclass(frozen=True)
class ProductUpdate:
    """As `LoraUpdate`, with an A (rank, in) and a B (out, rank) that are made of the adapter's tensors."""

    a: Callable[[], Float32]
    b: Callable[[], Float32]
    factor: float
    label: str
    transposed: bool = False

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        return _add_product(values, self.a(), self.b(), self.factor, self.transposed, start, stop)


def _add_product(values: Float32, a: Float32, b: Float32, factor: float, transposed: bool, start: int, stop: int) -> Float32:
    delta = (b @ a[:, start:stop]).T if transposed else b[start:stop] @ a
    delta *= np.float32(factor)
    values += delta
    return values
