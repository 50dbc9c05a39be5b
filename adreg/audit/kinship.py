"""How like other adapters one is, and whether it is a mixture of a few of them: inner products of whole adapters."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from adreg.formats.adapters.adapter import Adapter, LoraModule
from adreg.formats.adapters.spectra import Factors, factors_of, fit, inner

MOST_PARTS = 3
NEAR, ENOUGH = 0.1, 0.01
SAMPLE, GOLDEN = 12, 0.6180339887498949
Rows = dict[str, Mapping[str, float]]
Between = Callable[[str, Sequence[str]], Mapping[str, float]]


@dataclass(frozen=True)
class Kinship:
    """Two adapters as vectors of all their updates: the inner product, and the norm of each."""

    inner: float
    norm: float
    other_norm: float

    @property
    def cosine(self) -> float:
        return max(-1.0, min(1.0, self.inner / (self.norm * self.other_norm)))


@dataclass(frozen=True)
class Mixture:
    """Other adapters by reference with their weights; `residual` is what the mixture leaves out, as a share of the norm."""

    weights: Mapping[str, float]
    residual: float


def kinships(one: Adapter, others: Mapping[str, Adapter]) -> dict[str, Kinship]:
    """How like each of `others` `one` is; those that are strangers, zero, or not finite, are left out.

    A module that only one of a pair has counts in its norm. Never holds more than a module; a stranger is known by a few.
    """
    near = {name: other for name, other in others.items() if _may_be_near(one, other)}
    own, products, squares = inner_products(one, near)
    found = {name: _kinship(own, products[name], squares[name]) for name in near}
    return {name: kin for name, kin in found.items() if kin}


def inner_products(
    one: Adapter, others: Mapping[str, Adapter], only: Collection[str] | None = None
) -> tuple[float, dict[str, float], dict[str, float]]:
    """⟨one, one⟩, ⟨one, other⟩ and ⟨other, other⟩ for each of `others`, over all modules or `only` some."""
    ours = one.by_name
    theirs = {name: other.by_name for name, other in others.items()}
    own, products, squares = 0.0, dict.fromkeys(others, 0.0), dict.fromkeys(others, 0.0)
    for name in sorted({module for modules in (ours, *theirs.values()) for module in modules}) if only is None else only:
        mine = _factors(ours.get(name))
        own += inner(mine, mine) if mine else 0.0
        for other, modules in theirs.items():
            factors = _factors(modules.get(name))
            squares[other] += inner(factors, factors) if factors else 0.0
            products[other] += inner(mine, factors) if mine and factors and fit(mine, factors) else 0.0
    return own, products, squares


def _may_be_near(one: Adapter, other: Adapter) -> bool:
    """Whether they are no strangers on `SAMPLE` of the modules that both have, spread by the golden ratio."""
    shared = sorted(one.by_name.keys() & other.by_name.keys())
    chosen = {shared[int(place * GOLDEN % 1 * len(shared))] for place in range(SAMPLE)} if shared else set()
    own, products, squares = inner_products(one, {"": other}, sorted(chosen))
    kin = _kinship(own, products[""], squares[""])
    return bool(chosen) and (kin is None or abs(kin.cosine) >= NEAR / 2)


def _kinship(own: float, product: float, square: float) -> Kinship | None:
    """None where one of both is zero or not finite."""
    if not (0 < own < math.inf and 0 < square < math.inf and math.isfinite(product)):
        return None
    return Kinship(product, math.sqrt(own), math.sqrt(square))


def _factors(module: LoraModule | None) -> Factors | None:
    return None if module is None else factors_of(module)


def mixture(kin: Mapping[str, Kinship], between: Between) -> Mixture:
    """The adapters of `kin`, `MOST_PARTS` at most, whose sum with the best weights comes within `ENOUGH` or nearest.

    Orthogonal matching pursuit: each step takes the one that explains most of what is left, and fits all weights anew.
    `between(name, others)` gives the inner products of one of them with the others.
    """
    near = {name: one for name, one in kin.items() if abs(one.cosine) >= NEAR}
    rows: Rows = {}
    found = Mixture({}, 1.0)
    while len(found.weights) < min(MOST_PARTS, len(near)) and found.residual >= ENOUGH:
        others = [name for name in near if name not in found.weights]
        _, best = max((_explained(near[name], name, found.weights, rows), name) for name in others)
        rows[best] = between(best, sorted(near))
        found = _fitted([*found.weights, best], near, rows)
    return found


def _explained(kin: Kinship, name: str, weights: Mapping[str, float], rows: Rows) -> float:
    """How much `name` explains of what the mixture with `weights` leaves."""
    return abs(kin.inner - sum(weight * rows[one][name] for one, weight in weights.items())) / kin.other_norm


def _fitted(names: Sequence[str], kin: Mapping[str, Kinship], rows: Rows) -> Mixture:
    """The mixture of `names` with the weights of least squares, through their Gram matrix."""
    import numpy as np

    gram = np.array([[rows[one][other] for other in names] for one in names])
    products = np.array([kin[name].inner for name in names])
    weights = np.linalg.lstsq(gram, products, rcond=None)[0]
    left = 1 - float(weights @ products) / kin[names[0]].norm ** 2
    return Mixture(dict(zip(names, map(float, weights), strict=True)), math.sqrt(max(left, 0.0)))
