"""How strong an adapter's updates are and how two of them differ, without forming a single one of them.

An update is scaling·B·A with B (out, rank) and A (rank, in). All figures are float64, from rank × rank matrices:
‖BA‖² is the sum over (BᵀB)∘(AAᵀ), ⟨B₁A₁, B₂A₂⟩ the sum over (B₁ᵀB₂)∘(A₁A₂ᵀ), and the distance comes from the triangular
factors of [B₁ −B₂] and [A₁; A₂]ᵀ, because a difference of squares would lose it in rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from adreg.formats.adapter import LoraModule
from adreg.formats.dtypes import FLOATS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """One module's updates in two adapters: their Frobenius norms (None where it has none), the cosine between them, and
    the norm of their difference as a share of the larger one; the last two are None where shapes differ."""

    module: str
    norm_a: float | None
    norm_b: float | None
    cosine: float | None = None
    distance: float | None = None

    @property
    def change(self) -> float:
        """How much changed, in the units of the updates: what the table is sorted by."""
        norms = (self.norm_a or 0.0, self.norm_b or 0.0)
        return abs(norms[0] - norms[1]) if self.distance is None else self.distance * max(norms)


def compare(name: str, a: LoraModule | None, b: LoraModule | None) -> Effect:
    """The effects of a module in two adapters, either of which may lack it."""
    first, second = _factors(a), _factors(b)
    norms = (_norm(first), _norm(second))
    if first is None or second is None or norms[0] is None or norms[1] is None or not _fit(first, second):
        return Effect(name, *norms)
    product = norms[0] * norms[1]
    cosine = max(-1.0, min(1.0, _inner(first, second) / product)) if product else None
    largest = max(norms[0], norms[1])
    return Effect(name, *norms, cosine, _distance(first, second) / largest if largest else 0.0)


def _factors(module: LoraModule | None) -> tuple[Matrix, Matrix] | None:
    """scaling·B and A, in float64."""
    if module is None or {module.a.dtype, module.b.dtype} - set(FLOATS):
        return None
    return module.scaling * module.b.float32().astype("float64"), module.a.float32().astype("float64")


def _norm(factors: tuple[Matrix, Matrix] | None) -> float | None:
    return None if factors is None else math.sqrt(max(_inner(factors, factors), 0.0))


def _fit(one: tuple[Matrix, Matrix], two: tuple[Matrix, Matrix]) -> bool:
    return bool(one[0].shape[0] == two[0].shape[0] and one[1].shape[1] == two[1].shape[1])


def _inner(one: tuple[Matrix, Matrix], two: tuple[Matrix, Matrix]) -> float:
    return float(((one[0].T @ two[0]) * (one[1] @ two[1].T)).sum())


def _distance(one: tuple[Matrix, Matrix], two: tuple[Matrix, Matrix]) -> float:
    import numpy as np

    if all(np.array_equal(left, right) for left, right in zip(one, two, strict=True)):
        return 0.0
    left, right = _triangle(np.hstack([one[0], -two[0]])), _triangle(np.vstack([one[1], two[1]]).T)
    return float(np.linalg.norm(left @ right.T))


def _triangle(matrix: Matrix) -> Matrix:
    import numpy as np

    found: Matrix = np.linalg.qr(matrix, mode="r")  # type: ignore[assignment]  # with this mode it is the one matrix
    return found
