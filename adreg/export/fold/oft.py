"""The update of OFT: the inputs of a linear layer are rotated, block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from adreg.formats.dtypes import Float32
from adreg.formats.safetensors import TensorView

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class OftUpdate:
    """W @ R^T, R being block-diagonal. Each row of `rotations` is the part above the diagonal of a skew-symmetric Q;
    one row is for all blocks. R is the Cayley transform (I - Q)(I + Q)^-1 of Q, or with `terms` the Neumann series of
    (I + Q)(I - Q)^-1 that PEFT cuts off there. Source: peft tuners/oft/layer.py.
    """

    rotations: TensorView
    terms: int | None
    label: str

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        blocks = values.reshape(len(values), -1, self._transposed.shape[-1]).swapaxes(0, 1)
        rotated: Float32 = np.matmul(blocks, self._transposed).swapaxes(0, 1).reshape(values.shape)
        return rotated

    @cached_property
    def _transposed(self) -> Float32:
        skew = _skew_symmetric(self.rotations.float32().astype(np.float64))
        rotation = _cayley(skew) if self.terms is None else _neumann(skew, self.terms)
        return np.ascontiguousarray(rotation.swapaxes(1, 2), dtype=np.float32)


def block_size(elements: int) -> int:
    """The side of the matrix that has `elements` numbers above its diagonal."""
    return (1 + math.isqrt(1 + 8 * elements)) // 2


def _skew_symmetric(packed: Float64) -> Float64:
    size = block_size(packed.shape[1])
    upper = np.zeros((len(packed), size, size))
    upper[:, *np.triu_indices(size, 1)] = packed
    skew: Float64 = upper - upper.swapaxes(1, 2)
    return skew


def _cayley(skew: Float64) -> Float64:
    identity = np.eye(skew.shape[-1])
    # X (I + Q) = I - Q, solved as (I + Q)^T X^T = (I - Q)^T, where Q^T = -Q
    return np.asarray(np.linalg.solve(identity - skew, identity + skew).swapaxes(1, 2), dtype=np.float64)


def _neumann(skew: Float64, terms: int) -> Float64:
    """I + 2Q + 2Q^2 + ... + Q^last: with more than two terms the last power counts once."""
    last = terms - 1 if terms < 3 else max(terms - 1, 3)
    total = np.zeros(skew.shape) + np.eye(skew.shape[-1])
    power = skew
    for exponent in range(1, last + 1):
        total += power if exponent == last and terms > 2 else 2 * power
        power = power @ skew
    return total
