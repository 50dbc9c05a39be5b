"""Updates of low rank as factors: their exact sum, and the nearest update of a smaller rank. Knows matrices only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adreg.formats.dtypes import Float32

EXACT_SIDE = 512
OVERSAMPLING, ROUNDS, SETTLED = 16, 12, 1e-4
NEGLIGIBLE = 1e-6
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class LowRank:
    """left (out, rank) @ right (rank, in), and the share of the squared norm of what it stands for that it holds."""

    left: Float32
    right: Float32
    held: float = 1.0

    @property
    def rank(self) -> int:
        return int(self.right.shape[0])


def concatenated(factors: Sequence[tuple[Float32, Float32, float]]) -> LowRank:
    """The sum of factor * left @ right, every factor as it is: the factor goes into left."""
    lefts = [np.float32(factor) * left for left, _, factor in factors]
    return LowRank(np.hstack(lefts), np.vstack([right for _, right, _ in factors]))


def truncated(update: LowRank, rank: int | None) -> LowRank:
    """The nearest update of `rank`, or with None the smallest that loses nothing; exact, through QR and the core's SVD."""
    outer, left = np.linalg.qr(update.left.astype(np.float64))
    inner, right = np.linalg.qr(update.right.T.astype(np.float64))
    u, values, v = np.linalg.svd(left @ right.T)
    needed = max(int((values > NEGLIGIBLE * values[0]).sum()), 1)
    return _balanced(outer @ u, values, v @ inner.T, needed if rank is None else min(rank, len(values)), float(values @ values))


def nearest(dense: Float32, rank: int) -> LowRank:
    """The nearest update of `rank` to a matrix that has none: LAPACK's for a small one, else by subspace iteration until
    it holds no more (Halko, Martinsson and Tropp 2011). The same matrix gives the same answer."""
    power = float((dense.astype(np.float64) ** 2).sum())
    rank = min(rank, *dense.shape)
    if min(dense.shape) <= EXACT_SIDE:
        u, values, v = np.linalg.svd(dense.astype(np.float64), full_matrices=False)
        return _balanced(u, values, v, rank, power)
    width = min(rank + OVERSAMPLING, *dense.shape)
    basis, held = np.random.default_rng(0).standard_normal((dense.shape[1], width), dtype=np.float32), 0.0
    for _ in range(ROUNDS):
        outer = np.linalg.qr(dense @ basis)[0]
        core = dense.T @ outer
        basis = np.linalg.qr(core)[0]
        found = float((core.astype(np.float64) ** 2).sum())
        if found - held <= SETTLED * power:
            break
        held = found
    u, values, v = np.linalg.svd(core.T.astype(np.float64), full_matrices=False)
    return _balanced(outer @ u, values, v, rank, power)


def _balanced(u: Matrix, values: Matrix, v: Matrix, rank: int, power: float) -> LowRank:
    """The leading `rank` directions, the square root of each singular value on either side."""
    roots = np.sqrt(values[:rank])
    held = float(values[:rank] @ values[:rank]) / power if power else 1.0
    return LowRank((u[:, :rank] * roots).astype(np.float32), (roots[:, None] * v[:rank]).astype(np.float32), held)
