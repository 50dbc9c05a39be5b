"""How strong an adapter's updates are and how two differ, module by module. The arithmetic is `formats/adapters/spectra.py`."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.formats.adapters.adapter import LoraModule
from adreg.formats.adapters.spectra import cosine, distance, factors_of, fit


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
    first, second = (factors_of(module) if module else None for module in (a, b))
    norms = [factors.norm if factors else None for factors in (first, second)]
    if first is None or second is None or not fit(first, second):
        return Effect(name, norms[0], norms[1])
    largest = max(first.norm, second.norm)
    return Effect(name, norms[0], norms[1], cosine(first, second), distance(first, second) / largest if largest else 0.0)
