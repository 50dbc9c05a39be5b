"""Updates by one number per row or column: what IA3 multiplies, what a LoRA adds to a bias."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from adreg.formats.dtypes import Float32
from adreg.formats.safetensors import TensorView


@dataclass(frozen=True)
class ScaleUpdate:
    """IA3: every row times its element of `scales`, or with `columns` every column. Source: peft tuners/ia3/layer.py."""

    scales: TensorView
    label: str
    columns: bool = False

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        scales = self._scales if self.columns else self._scales[start:stop]
        values *= scales if self.columns or values.ndim == 1 else scales[:, None]
        return values

    @cached_property
    def _scales(self) -> Float32:
        return self.scales.float32().reshape(-1)


@dataclass(frozen=True)
class BiasUpdate:
    """`lora_bias`: factor * bias of B, added to the layer's own bias."""

    bias: TensorView
    factor: float
    label: str

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        values += self.bias.rows(start, stop) * np.float32(self.factor)
        return values
