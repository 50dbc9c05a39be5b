"""The updates of other families than LoRA as low-rank factors; none is ever formed. Reads one module, judges no adapter.

An update is the Kronecker product of the factors that are returned, of one for all but LoKr.
Sources: get_delta_weight in peft/tuners/{loha,lokr,vera,adalora}/layer.py (0.21).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adreg.errors import UnsupportedError
from adreg.formats.adapters.family import Parts
from adreg.formats.adapters.familykeys import Kind
from adreg.formats.adapters.namepatterns import NamePattern
from adreg.formats.adapters.spectra import RANK_LIMIT, Factors, Matrix
from adreg.formats.dtypes import FLOATS
from adreg.formats.strictjson import JsonObject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT = 8
NO_MATRICES = "its tensors do not make one matrix: a part is missing, or it is a convolution's"
NO_FLOATS = "its tensors are no floats"
TOO_LARGE = f"it has a rank above {RANK_LIMIT}"
NO_PROJECTIONS = "VeRA's random projections are not in its file (save_projection=False)"
NO_WIDTH = "how wide it is only its base says, which is not registered"


@dataclass(frozen=True)
class Module:
    """One module's tensors by part, those that all modules share with them; the configuration; and the module's input
    features, where they are known."""

    name: str
    parts: Parts
    config: JsonObject
    width: int | None

    def array(self, part: str) -> NDArray[np.float64]:
        view = self.parts.get(part)
        if view is None:
            raise UnsupportedError(NO_PROJECTIONS if part.startswith("vera") else NO_MATRICES)
        if view.dtype not in FLOATS:
            raise UnsupportedError(NO_FLOATS)
        return view.float32().astype("float64")

    def pair(self, left: str, right: str) -> tuple[Matrix, Matrix]:
        """Two matrices that multiply."""
        one, two = self.array(left), self.array(right)
        if one.ndim != 2 or two.ndim != 2 or one.shape[1] != two.shape[0]:
            raise UnsupportedError(NO_MATRICES)
        return one, two

    @property
    def scaling(self) -> float:
        """alpha/r of LoHa and LoKr, with both patterns applied."""
        alpha = NamePattern(self.config.get("alpha_pattern") or {}).value(self.name, self.config.get("alpha", DEFAULT))
        return alpha / NamePattern(self.config.get("rank_pattern") or {}).value(self.name, self.config.get("r", DEFAULT))


def _loha(module: Module) -> tuple[Factors, ...]:
    """scaling·(w1_a·w1_b)∘(w2_a·w2_b) has rank r²: the left factor's rows are products of rows, the right one's columns
    of columns."""
    import numpy as np

    (a1, b1), (a2, b2) = module.pair("w1_a", "w1_b"), module.pair("w2_a", "w2_b")
    if "t1" in module.parts or (len(a1), b1.shape[1]) != (len(a2), b2.shape[1]):
        raise UnsupportedError(NO_MATRICES)
    rank = a1.shape[1] * a2.shape[1]
    if rank > RANK_LIMIT:
        raise UnsupportedError(TOO_LARGE)
    left, right = np.einsum("ip,iq->ipq", a1, a2), np.einsum("pj,qj->pqj", b1, b2)
    return (Factors(left.reshape(-1, rank), right.reshape(rank, -1), module.scaling),)


def _lokr(module: Module) -> tuple[Factors, ...]:
    """scaling·w1⊗w2."""
    if "t2" in module.parts:
        raise UnsupportedError(NO_MATRICES)
    return _half(module, "w1", module.scaling), _half(module, "w2", 1.0)


def _half(module: Module, name: str, scaling: float) -> Factors:
    """A matrix of LoKr, which is stored whole or as a product of two."""
    import numpy as np

    if name not in module.parts:
        return Factors(*module.pair(f"{name}_a", f"{name}_b"), scaling)
    whole = module.array(name)
    if whole.ndim != 2:
        raise UnsupportedError(NO_MATRICES)
    rows, columns = whole.shape
    if min(rows, columns) > RANK_LIMIT:
        raise UnsupportedError(TOO_LARGE)
    return Factors(whole, np.eye(columns), scaling) if columns <= rows else Factors(np.eye(rows), whole, scaling)


def _vera(module: Module) -> tuple[Factors, ...]:
    """diag(λ_b)·B·diag(λ_d)·A, where A and B are the corner of the shared ones that is as large as the module."""
    right, left = module.array("vera_A"), module.array("vera_B")
    rows, ranks = module.array("lambda_b"), module.array("lambda_d")
    if module.width is None:
        raise UnsupportedError(NO_WIDTH)
    whole = left.ndim == right.ndim == 2 and rows.ndim == 1 and ranks.shape == (left.shape[1],) == (len(right),)
    if not whole or len(rows) > len(left) or module.width > right.shape[1]:
        raise UnsupportedError(NO_MATRICES)
    return (Factors(rows[:, None] * left[: len(rows)], ranks[:, None] * right[:, : module.width], 1.0),)


def _adalora(module: Module) -> tuple[Factors, ...]:
    """alpha/rank·B·diag(E)·A."""
    (left, right), middle = module.pair("B", "A"), module.array("E")
    if middle.shape != (len(right), 1):
        raise UnsupportedError(NO_MATRICES)
    return (Factors(left, middle * right, module.config.get("lora_alpha", DEFAULT) / (len(right) + 1e-5)),)


FACTORS: dict[Kind, Callable[[Module], tuple[Factors, ...]]] = {
    Kind.LOHA: _loha,
    Kind.LOKR: _lokr,
    Kind.VERA: _vera,
    Kind.ADALORA: _adalora,
}
"""By family: the factors of a module. Raises `UnsupportedError` with the reason where it has none."""
