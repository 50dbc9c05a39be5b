"""The update of LoRA on a linear layer, a Conv1D, an embedding or an output head: W + factor * (B @ A)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from adreg.formats.adapters.adapter import LoraModule
from adreg.formats.dtypes import Float32


@dataclass(frozen=True)
class LoraUpdate:
    """`factor` is the user's weight times the module's own scaling.

    `transposed` says that the base stores the tensor as (in, out), as Conv1D weights and embeddings are: there the
    update is (B @ A)^T. Source: peft tuners/lora/layer.py, `get_delta_weight`.
    """

    module: LoraModule
    factor: float
    label: str
    transposed: bool = False

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        """Add the update of rows `start:stop` to `values`, which are those rows; in place."""
        delta = (self._b @ self._a[:, start:stop]).T if self.transposed else self._b[start:stop] @ self._a
        delta *= np.float32(self.factor)
        values += delta
        return values

    @cached_property
    def _a(self) -> Float32:
        return self.module.a.float32()

    @cached_property
    def _b(self) -> Float32:
        return self.module.b.float32()
