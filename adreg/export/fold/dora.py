"""The update of DoRA: the direction of the updated weight, at the magnitude that was trained for each output."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

import numpy as np

from adreg.export.fold.folded import spans
from adreg.export.fold.lora import LoraUpdate
from adreg.formats.dtypes import Float32
from adreg.formats.safetensors import TensorView


@dataclass(frozen=True)
class DoraUpdate:
    """magnitude * V / ||V|| with V = W + factor * (B @ A), the norm taken over the inputs of each output.

    The outputs are the rows of a linear layer, and the columns of a Conv1D or an embedding table (whose inputs are the
    tokens); a column's norm needs the whole of `base`, which is read once for it. Source: peft tuners/lora/variants.py.
    """

    lora: LoraUpdate
    magnitude: TensorView
    base: TensorView
    _measuring: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def label(self) -> str:
        return self.lora.label

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        values = self.lora.apply(values, start, stop)
        if self.lora.transposed:
            with self._measuring:
                scales = self._column_scales
            values *= scales
        else:
            values *= (self._magnitudes[start:stop] / np.linalg.norm(values, axis=1))[:, None]
        return values

    @cached_property
    def _magnitudes(self) -> Float32:
        return self.magnitude.float32()

    @cached_property
    def _column_scales(self) -> Float32:
        rows, columns = self.base.shape
        squares = np.zeros(columns)
        for start, stop in spans(rows, columns):
            block = self.lora.apply(self.base.rows(start, stop).copy(), start, stop)
            squares += np.square(block, dtype=np.float64).sum(axis=0)
        norms: Float32 = np.sqrt(squares).astype(np.float32)
        return self._magnitudes / norms
