"""The updates of LoHa (a Hadamard product of two low-rank matrices) and LoKr (a Kronecker product of two small ones)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from adreg.formats.dtypes import Float32
from adreg.formats.safetensors import TensorView

Product = tuple[TensorView, TensorView]


@dataclass(frozen=True)
class LohaUpdate:
    """W + factor * ((w1_a @ w1_b) * (w2_a @ w2_b)). Source: peft tuners/loha/layer.py, `make_weight`."""

    first: Product
    second: Product
    factor: float
    label: str

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        delta = self.first[0].rows(start, stop) @ self._first_b
        delta *= self.second[0].rows(start, stop) @ self._second_b
        delta *= np.float32(self.factor)
        values += delta
        return values

    @cached_property
    def _first_b(self) -> Float32:
        return self.first[1].float32()

    @cached_property
    def _second_b(self) -> Float32:
        return self.second[1].float32()


@dataclass(frozen=True)
class LokrUpdate:
    """W + factor * kron(w1, w2): row i is that of w1 at i // h times that of w2 at i % h, h being the height of w2.

    Source: peft tuners/lokr/layer.py, `get_delta_weight`.
    """

    first: Callable[[], Float32]
    second: Callable[[], Float32]
    factor: float
    label: str

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        first, second = np.divmod(np.arange(start, stop), self._second.shape[0])
        delta = self._first[first][:, :, None] * self._second[second][:, None, :]
        delta *= np.float32(self.factor)
        values += delta.reshape(values.shape)
        return values

    @cached_property
    def _first(self) -> Float32:
        return self.first()

    @cached_property
    def _second(self) -> Float32:
        return self.second()
