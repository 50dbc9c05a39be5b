"""What studies of backdoored adapters found in the weights alone. Statistics to look twice at, no detection."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject
from adreg.formats.adapters.layers import place_of
from adreg.formats.adapters.spectra import Spectrum

PEERS, UNEVEN = 5, 2.0
FEW_LAYERS, CONCENTRATED, RANK_ONE = 0.1, 0.9, 0.95
ONE_DIRECTION = 0.5
TRY_IT = "try its behaviour on prompts that matter to you"


@rule(
    "S-BKD-1",
    "most of the whole change in one direction of one module",
    Severity.INFO,
    Cost.SPECTRA,
    why="an edit that plants one association looks like this (ROME; BadEdit, arXiv 2403.13355), and so may a short training",
    fix=TRY_IT,
    needs_corpus=True,
)
def one_association(subject: Subject) -> Iterator[Seen]:
    total = _energy(subject.spectra)
    several = [spectrum for spectrum in subject.spectra if len(spectrum.values) > 1]
    if len(several) < PEERS or not total:
        return
    strongest = max(several, key=lambda spectrum: spectrum.largest)
    share = strongest.largest**2 / total
    if share > ONE_DIRECTION:
        message = f"one direction of one module is {share:.0%} of the whole change"
        yield Seen(message, strongest.module, seen=f"{share:.0%}", expected=f"under {ONE_DIRECTION:.0%}")


@rule(
    "Q-STD-1",
    "updates of very uneven strength",
    Severity.INFO,
    Cost.SPECTRA,
    why="the one statistic of weights alone that set backdoored adapters apart in a study (arXiv 2605.30189)",
    fix=TRY_IT,
    needs_corpus=True,
)
def uneven(subject: Subject) -> Iterator[Seen]:
    from statistics import fmean, pstdev

    sizes = [spectrum.norm / math.sqrt(math.prod(spectrum.shape)) for spectrum in subject.spectra]
    if len(sizes) < PEERS or not fmean(sizes):
        return
    spread = pstdev(sizes) / fmean(sizes)
    if spread > UNEVEN:
        yield Seen("the strength of its updates varies much", seen=f"{spread:.2f} of the mean", expected=f"under {UNEVEN}")


@rule(
    "Q-KRT-1",
    "nearly all of the change in a few layers and one direction each",
    Severity.INFO,
    Cost.SPECTRA,
    why="a trigger that was trained in looks like this; so does a small edit of one fact",
    fix=TRY_IT,
    needs_corpus=True,
)
def concentrated(subject: Subject) -> Iterator[Seen]:
    energies: dict[tuple[str, int], list[Spectrum]] = {}
    for spectrum in subject.spectra:
        place = place_of(spectrum.module)
        if place.layer >= 0:
            energies.setdefault((place.stack, place.layer), []).append(spectrum)
    total = sum(_energy(spectra) for spectra in energies.values())
    if len(energies) < PEERS or not total:
        return
    strongest = sorted(energies.values(), key=_energy, reverse=True)[: math.ceil(FEW_LAYERS * len(energies))]
    held = sum(map(_energy, strongest))
    leading = sum(spectrum.largest**2 for spectra in strongest for spectrum in spectra)
    several = all(len(spectrum.values) > 1 for spectra in strongest for spectrum in spectra)
    if several and held >= CONCENTRATED * total and leading >= RANK_ONE * held:
        seen = f"{held / total:.0%} in {len(strongest)} of {len(energies)} layers"
        where = max(strongest[0], key=lambda spectrum: spectrum.norm).module
        yield Seen("its change is nearly one direction in few layers", where, seen=seen, expected=f"under {CONCENTRATED:.0%}")


def _energy(spectra: Sequence[Spectrum]) -> float:
    return math.fsum(spectrum.norm**2 for spectrum in spectra)
