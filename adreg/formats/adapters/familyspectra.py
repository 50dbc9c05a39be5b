"""The spectra of an adapter of any family, and by name what of it has none. Knows no base: an update that multiplies the
base's weights is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adreg.errors import UnsupportedError
from adreg.formats.adapters.family import Family
from adreg.formats.adapters.familyfactors import FACTORS, NO_FLOATS, NO_MATRICES, TOO_LARGE, Module
from adreg.formats.adapters.familykeys import Kind
from adreg.formats.adapters.inspection import Inspection
from adreg.formats.adapters.spectra import RANK_LIMIT, Factors, Spectrum, factors_of
from adreg.progress import SILENT, Progress

ON_BASE = "what it adds depends on the base's weights"
NO_UPDATE = {
    Kind.IA3: f"IA3 scales what the base computes: {ON_BASE}",
    Kind.OFT: f"OFT rotates the base's weights: {ON_BASE}",
    Kind.BOFT: f"BOFT rotates the base's weights: {ON_BASE}",
    Kind.LN_TUNING: "LayerNorm tuning replaces the base's weights",
}
BESIDE = {
    "magnitude": "its DoRA magnitudes, which multiply the base's weights",
    "lora_bias": "its trained bias, which is no matrix",
    "token_delta": "its trained rows, which replace the embedding's",
    "prompt": "virtual tokens before the prompt are no update of weights",
}
SAVED = "it was trained whole, in the place of the base's"
EXPERTS = "it holds the updates of several experts in one (target_parameters)"
NOT_FINITE = "it holds NaN or infinity"


@dataclass(frozen=True)
class Spectra:
    """What was `found`, and what was `left_out`: names of modules and tensors by the reason."""

    found: tuple[Spectrum, ...]
    left_out: Mapping[str, tuple[str, ...]]


def measure(inspection: Inspection, widths: Mapping[str, int], progress: Progress = SILENT) -> Spectra:
    """The singular values of every update in a sound adapter, one module at a time in memory.

    `widths` are the input features of modules, which VeRA's own tensors do not tell; it may be empty.
    """
    family, found = inspection.family, []
    left_out = _beside(family)
    with progress.task("measuring", len(family.modules), "modules") as task:
        for name in family.modules:
            try:
                found.append(_spectrum(name, _factors(inspection, name, widths.get(name))))
            except UnsupportedError as error:
                left_out.setdefault(error.what, []).append(name)
            task.advance()
    return Spectra(tuple(found), {reason: tuple(names) for reason, names in left_out.items()})


def _beside(family: Family) -> dict[str, list[str]]:
    """What an adapter holds besides updates of weights."""
    found = {SAVED: list(family.saved)} if family.saved else {}
    for key in family.keys:
        if key.part in BESIDE:
            found.setdefault(BESIDE[key.part], []).append(key.module or key.raw)
    return found


def _factors(inspection: Inspection, name: str, width: int | None) -> Sequence[Factors]:
    """What a module's update is the Kronecker product of. Raises `UnsupportedError` with the reason where it has none."""
    family = inspection.family
    if family.kind is Kind.LORA:
        return [_lora(inspection, name)]
    if family.kind not in FACTORS:
        raise UnsupportedError(NO_UPDATE.get(family.kind, NO_MATRICES))
    return FACTORS[family.kind](Module(name, {**family.shared, **family.modules[name]}, inspection.raw, width))


def _lora(inspection: Inspection, name: str) -> Factors:
    adapter = inspection.adapter
    module = adapter.by_name.get(name) if adapter else None
    if adapter is None or module is None:
        raise UnsupportedError(NO_MATRICES)
    if inspection.raw.get("target_parameters") and module.rank != adapter.config.rank_of(name):
        raise UnsupportedError(EXPERTS)
    factors = factors_of(module)
    if factors is None:
        raise UnsupportedError(TOO_LARGE if module.rank > RANK_LIMIT else NO_FLOATS)
    return factors


def _spectrum(name: str, factors: Sequence[Factors]) -> Spectrum:
    """The singular values of a Kronecker product are the products of those of its factors."""
    values, rows, columns = [1.0], 1, 1
    for one in factors:
        if one.left.shape[1] > RANK_LIMIT:
            raise UnsupportedError(TOO_LARGE)
        values = sorted((value * other for value in values for other in one.singular_values), reverse=True)
        rows, columns = rows * one.shape[0], columns * one.shape[1]
    if not values:
        raise UnsupportedError(NOT_FINITE)
    return Spectrum(name, (rows, columns), len(values), tuple(values))
