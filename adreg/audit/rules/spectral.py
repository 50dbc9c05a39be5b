"""Q, by singular values: how strong each module's update is, and how many directions of it do something."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject
from adreg.formats.adapters.layers import place_of
from adreg.formats.adapters.spectra import Factors, Matrix, Spectrum, factors_of
from adreg.formats.dtypes import FLOATS

if TYPE_CHECKING:
    from adreg.formats.adapters.adapter import LoraModule

STRONG = 0.3
PEERS, OUTLIER_MADS, OUTLIER_RATIO = 5, 8.0, 10.0
MAD_TO_DEVIATION = 1.4826
COLLAPSED_RANK, COLLAPSED_SHARE = 1.5, 0.5
USED_SHARE, OVERSIZED, SMALL_RANK = 0.99, 4, 8
INTRUDERS, FOREIGN_COSINE, LARGEST_SIDE = 10, 0.5, 2048


@rule(
    "Q-NRM-1",
    "an update that is large beside the weight it changes",
    Severity.INFO,
    Cost.DEEP,
    why="it overwrites what the base knows there, and adds up badly with other adapters",
    fix="lower alpha or the learning rate, or give it a smaller weight in a merge",
    needs_corpus=True,
)
def strong_updates(subject: Subject) -> Iterator[Seen]:
    found = []
    for module, spectrum in _with_module(subject):
        weight = _base_norm(subject, module)
        if weight and spectrum.norm / weight >= STRONG:
            found.append((spectrum.norm / weight, module.name))
    if found:
        ratio, name = max(found)
        message = f"{len(found)} of {len(subject.spectra)} updates have {STRONG:.0%} of their weight's norm or more"
        yield Seen(message, name, seen=f"{ratio:.2f}", expected=f"under {STRONG}")


def _with_module(subject: Subject) -> Iterator[tuple[LoraModule, Spectrum]]:
    spectra = {spectrum.module: spectrum for spectrum in subject.spectra}
    yield from ((module, spectra[module.name]) for module in subject.lora if module.name in spectra)


def _base_norm(subject: Subject, module: LoraModule) -> float:
    """The Frobenius norm of the module's weight in the base; 0 where the base is not loaded or packed."""
    import numpy as np

    view = subject.weights.get(module.weight) if subject.weights is not None else None
    if view is None or view.dtype not in FLOATS or len(view.shape) != 2:
        return 0.0
    steps = range(0, view.shape[0], 1024)
    return math.hypot(*(float(np.linalg.norm(view.rows(start, start + 1024))) for start in steps))


@rule(
    "Q-NRM-2",
    "an update far stronger than those of the same kind in other layers",
    Severity.INFO,
    Cost.SPECTRA,
    why="a training that went astray in one place, or an edit by hand",
    fix="take an earlier checkpoint of the training, or ask who made it",
    needs_corpus=True,
)
def outliers(subject: Subject) -> Iterator[Seen]:
    from statistics import median

    for peers in _kinds(subject.spectra).values():
        sizes = [math.log(spectrum.largest) for spectrum in peers if spectrum.largest > 0]
        if len(sizes) < PEERS:
            continue
        middle = median(sizes)
        limit = middle + max(
            OUTLIER_MADS * MAD_TO_DEVIATION * median(abs(one - middle) for one in sizes), math.log(OUTLIER_RATIO)
        )
        for spectrum in peers:
            if spectrum.largest > 0 and math.log(spectrum.largest) > limit:
                message = "its largest singular value is far above its peers'"
                expected = f"about {math.exp(middle):.3g}"
                yield Seen(message, spectrum.module, seen=f"{spectrum.largest:.3g}", expected=expected)


def _kinds(spectra: Sequence[Spectrum]) -> dict[tuple[str, str], list[Spectrum]]:
    """Those in layers, by stack and kind."""
    found: dict[tuple[str, str], list[Spectrum]] = {}
    for spectrum in spectra:
        place = place_of(spectrum.module)
        if place.layer >= 0:
            found.setdefault((place.stack, place.kind), []).append(spectrum)
    return found


@rule(
    "Q-RNK-1",
    "updates that are one direction only",
    Severity.WARN,
    Cost.SPECTRA,
    why="a rank that collapsed: the training used none of the directions it had but one",
    fix="lower the learning rate, train longer, or train with rank 1",
)
def collapsed(subject: Subject) -> Iterator[Seen]:
    judged, flat = _flat(subject)
    if judged and flat:
        seen = f"effective rank {flat[0].effective_rank:.2f} of {flat[0].rank}"
        message = f"{len(flat)} of {judged} updates have an effective rank under {COLLAPSED_RANK}"
        yield Seen(message, flat[0].module, seen=seen, expected=f"{COLLAPSED_RANK} or more")


def _flat(subject: Subject) -> tuple[int, list[Spectrum]]:
    """How many updates could have collapsed, and those that did; none unless a good part of all."""
    judged = [spectrum for spectrum in subject.spectra if len(spectrum.values) > 1 and spectrum.norm > 0]
    flat = [spectrum for spectrum in judged if spectrum.effective_rank < COLLAPSED_RANK]
    return len(judged), flat if len(flat) >= COLLAPSED_SHARE * len(judged) else []


@rule(
    "Q-RNK-2",
    "a rank that is much larger than what it is used for",
    Severity.INFO,
    Cost.SPECTRA,
    why="it takes memory and time in every request and does nothing for it",
    fix="resize it, or train with a smaller rank",
)
def oversized(subject: Subject) -> Iterator[Seen]:
    used = {spectrum.module: spectrum.directions(USED_SHARE) for spectrum in subject.spectra if spectrum.norm > 0}
    rank = max((spectrum.rank for spectrum in subject.spectra), default=0)
    if used and rank >= SMALL_RANK and max(used.values()) * OVERSIZED <= rank and not _flat(subject)[1]:
        most = max(used, key=lambda module: used[module])
        message = f"rank {rank}, and {used[most]} directions hold {USED_SHARE:.0%} of every update"
        yield Seen(message, most, seen=rank, expected=used[most])


@rule(
    "Q-INT-1",
    "intruder dimensions: leading directions that the base's weight does not have",
    Severity.INFO,
    Cost.DEEP,
    why="adapters with them forget more of what the base knew (arXiv 2410.21228)",
    fix="train with a lower learning rate or more rank; PEFT has reduce_intruder_dimension",
    needs_corpus=True,
)
def intruders(subject: Subject) -> Iterator[Seen]:
    found = []
    for module, spectrum in _with_module(subject):
        weight, factors = _base_weight(subject, module), factors_of(module)
        if weight is not None and factors is not None and weight.shape == factors.shape and spectrum.norm > 0:
            count = intruding(weight, factors)
            found += [(count, module.name)] if count else []
    if found:
        most, where = max(found)
        message = f"{len(found)} of {len(subject.spectra)} weights get new leading directions"
        yield Seen(message, where, seen=f"{most} of the first {INTRUDERS}", expected="none")


def _base_weight(subject: Subject, module: LoraModule) -> Matrix | None:
    """The module's weight as (out, in); None where it is not at hand, packed, or too large to decompose here."""
    view = subject.weights.get(module.weight) if subject.weights is not None else None
    if view is None or view.dtype not in FLOATS or len(view.shape) != 2 or min(view.shape) > LARGEST_SIDE:
        return None
    weight = view.float32().astype("float64")
    turned = module.embedding or (subject.weights is not None and subject.weights.is_conv1d(module.name))
    return weight.T if turned else weight


def intruding(weight: Matrix, factors: Factors) -> int:
    """How many of the first left singular vectors of weight + update lie further than `FOREIGN_COSINE` from all of the
    weight's own. Both are decomposed through their Gram matrices on the shorter side."""
    import numpy as np

    changed = weight + factors.scaling * (factors.left @ factors.right)
    if weight.shape[0] > weight.shape[1]:
        weight, changed = weight.T, changed.T
    own = np.linalg.eigh(weight @ weight.T)[1]
    leading = np.linalg.eigh(changed @ changed.T)[1][:, -INTRUDERS:]
    return int((np.abs(own.T @ leading).max(axis=0) < FOREIGN_COSINE).sum())
