"""The update of trainable tokens: some rows of a table are others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from adreg.formats.dtypes import Float32
from adreg.formats.safetensors import TensorView


@dataclass(frozen=True)
class RowsUpdate:
    """Row `ids[i]` becomes row i of `rows`. Source: peft tuners/trainable_tokens/layer.py."""

    ids: tuple[int, ...]
    rows: TensorView
    label: str

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        inside = (self._ids >= start) & (self._ids < stop)
        values[self._ids[inside] - start] = self._rows[inside]
        return values

    @cached_property
    def _ids(self) -> NDArray[np.int64]:
        return np.array(self.ids, dtype=np.int64)

    @cached_property
    def _rows(self) -> Float32:
        return self.rows.float32()
