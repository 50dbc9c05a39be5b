"""Which base a quantised or re-typed copy was made from, judged by samples of their values. Pure functions.

Three tests, each with what it can tell:
- **levels**: where a format rounds each value by itself, a value of the original lies within half a step of the copy's,
  for every value; another revision misses some, even at a drift of 0.1 %. Holds for one candidate alone. Formats whose
  codes importance weights may have moved can pass it, and not speak against a candidate.
- **floats**: what the copy keeps as floats is the original's. Decides re-typed copies; for a quantised one (norms, often
  the embeddings) it can only speak against a candidate, as a fine-tuned one may have left those alone.
- **projection** onto the way from one candidate to another, 0 at the one and 1 at the other: works for every format, but
  cannot know of an original that nobody registered, so it only chooses between candidates that passed another test.

GPTQ without activation order rounds the first value of each row as it is, which gives it a test of levels. A copy whose
values all moved (GPTQ in activation order, AWQ) and one of an original that is float32 in earnest stay undecided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adreg.formats.bases.sketch import EVEN, GROUP, SCALED, Segment, Sketch
from adreg.formats.dtypes import FLOATS, Float32, to_bfloat16, to_float32
from adreg.formats.quantised.bnb import LEVELS
from adreg.formats.quantised.packed import MOSTLY, MOVED, NEAREST, Quantisation

if TYPE_CHECKING:
    pass

QUANT_OF, UNDECIDED, UNRELATED = "QUANT-OF", "undecided", "unrelated"
# shares of values that contradict a candidate: up to FITS it may be the original, from MISFITS it is not
FITS, MISFITS = 3e-5, 2e-3
# values that a test of levels needs to notice a drift of 0.1 %: of all of them, of the first of each row
ENOUGH, ENOUGH_FIRST = 50_000, 10_000
UNDECIDED_WITHIN, NOISE = 0.25, 0.1
# the largest relative error that a format of so many bits makes
ERRORS = {2: 0.9, 3: 0.6, 4: 0.35, 5: 0.2, 6: 0.12, 8: 0.06}
# half of bfloat16's and of float16's last bit; float16's smallest scale times the largest code; float32's noise
BF16_HALF, F16_HALF, TINY, ROUNDING = 2.0**-8, 2.0**-11, 4e-6, 1e-5


@dataclass(frozen=True)
class Evidence:
    """How one candidate stands: shares of values that contradict it, of how many; and the relative error of the copy.

    `strict` is `levels` without the formats that importance weights may have moved.
    """

    levels: float
    levels_tested: int
    strict: float
    strict_tested: int
    floats: float
    floats_tested: int
    error: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Attribution:
    """The verdict; the candidate that it, or the doubt, is about, with a score from 0 to 1; and what speaks for it."""

    verdict: str
    parent: str | None
    score: float
    evidence: str
    details: dict[str, Evidence]


def attribute(copy: Sketch, quantisation: Quantisation | None, candidates: Mapping[str, Sketch]) -> Attribution:
    """Which of `candidates` (by weights' id) `copy` was made from; without `quantisation` it is a re-typed one.

    Candidates of another architecture, or sampled at other places, are left out.
    """
    alike = {name: other for name, other in candidates.items() if _alike(copy, other)}
    found = {name: compare(copy, other) for name, other in alike.items()}
    open_ = [name for name, one in found.items() if not _contradicted(one, quantisation)]
    fitting = [name for name in open_ if _fits(found[name], copy)]
    if not open_:
        return Attribution(UNRELATED, None, 0.0, "every candidate is contradicted", found)
    if not fitting:
        closest = min(open_, key=lambda name: found[name].error)
        return Attribution(UNDECIDED, closest, 0.0, "no test of this format can tell it from a fine-tuned one", found)
    return _chosen(copy, fitting, alike, found)


def compare(copy: Sketch, other: Sketch) -> Evidence:
    """What the samples say about `other` as the original of `copy`."""
    pairs = list(zip(copy.segments, other.segments, strict=True))
    firsts = [(one, its) for one, its in zip(copy.firsts, other.firsts, strict=True) if one.kind == NEAREST]
    strict = [_misplaced(one, its) for one, its in pairs + firsts if one.kind in SCALED and one.kind != MOSTLY]
    loose = [_misplaced(one, its) for one, its in pairs if one.kind == MOSTLY]
    floats = _total(_changed(one, its) for one, its in pairs if one.kind in FLOATS)
    return Evidence(
        *_total(strict + loose), *_total(strict), *floats, _error([pair for pair in pairs if pair[0].kind in (*SCALED, MOVED)])
    )


def projection(copy: Sketch, here: Sketch, there: Sketch) -> tuple[float, float]:
    """Where `copy` lies on the way from `here` (0) to `there` (1), and the standard error; NaN when those two are the same."""
    import numpy as np

    along = length = noise = 0.0
    for one, start, end in zip(copy.segments, here.segments, there.segments, strict=True):
        way, gone = end.values.astype(np.float64) - start.values, one.values.astype(np.float64) - start.values
        along += float(gone @ way)
        length += float(way @ way)
        noise += float(np.square(gone * way).sum())
    return (along / length, noise**0.5 / length) if length else (float("nan"), float("nan"))


def _chosen(copy: Sketch, fitting: list[str], alike: Mapping[str, Sketch], found: dict[str, Evidence]) -> Attribution:
    """The one that fits best, unless another that fits is too near to it to be told apart."""
    best = min(fitting, key=lambda name: (found[name].levels + found[name].floats, found[name].error))
    ways = [projection(copy, alike[best], alike[name]) for name in fitting if name != best]
    tests = _tests(found[best])
    if not all(abs(way) <= 0.5 - UNDECIDED_WITHIN and noise <= NOISE for way, noise in ways):
        return Attribution(UNDECIDED, best, 0.0, "another candidate is too near to be told from it", found)
    wrong = min((share for share, _ in tests), default=found[best].floats)
    score = min([1.0 - wrong, *(1.0 - abs(way) for way, _ in ways)])
    evidence = "levels" if tests else "floats"
    return Attribution(QUANT_OF, best, round(score, 4), evidence + (" and projection" if ways else ""), found)


def _alike(copy: Sketch, other: Sketch) -> bool:
    sizes = [[len(one.bits) for one in sketch.segments + sketch.firsts] for sketch in (copy, other)]
    return copy.arch_id == other.arch_id and sizes[0] == sizes[1]


def _fits(found: Evidence, copy: Sketch) -> bool:
    """Whether enough values were tested by a test that another revision would fail."""
    kinds = {one.kind for one in copy.segments}
    if kinds.intersection((*SCALED, MOVED)):
        needed = ENOUGH if kinds.intersection(SCALED) else ENOUGH_FIRST
        return any(wrong <= FITS and tested >= needed for wrong, tested in _tests(found))
    return found.floats <= FITS and found.floats_tested > 0


def _tests(found: Evidence) -> list[tuple[float, int]]:
    """The two tests of levels, where they tested anything: of how many values which share contradicts."""
    both = ((found.levels, found.levels_tested), (found.strict, found.strict_tested))
    return [(wrong, tested) for wrong, tested in both if tested]


def _contradicted(found: Evidence, quantisation: Quantisation | None) -> bool:
    if found.floats_tested and found.floats > MISFITS:
        return True
    if quantisation is None:
        return False
    too_far = found.error > ERRORS.get(quantisation.bits, 1.0)
    return too_far or found.strict > MISFITS


def _total(counts: Iterable[tuple[int, int]]) -> tuple[float, int]:
    wrong = tested = 0
    for some, of in counts:
        wrong, tested = wrong + some, tested + of
    return (wrong / tested if tested else 0.0), tested


def _changed(one: Segment, other: Segment) -> tuple[int, int]:
    """How many of the values kept as floats are not the other's as bfloat16, but for what float16 cannot hold."""
    import numpy as np

    if other.kind not in FLOATS:
        return 0, 0
    values, theirs = _bfloat16(one.values), _bfloat16(other.values)
    slack = np.zeros_like(values)
    if one.kind == "F16":
        # what float32 loses on the way through float16 may turn the last bit of bfloat16
        slack += np.float32(2**-24) + (np.abs(theirs) * np.float32(2 * BF16_HALF) if other.kind == "F32" else 0)
    return int((~(np.abs(values - theirs) <= slack)).sum()), len(values)


def _bfloat16(values: Float32) -> Float32:
    return to_float32(to_bfloat16(values).data, "BF16")


def _misplaced(one: Segment, other: Segment) -> tuple[int, int]:
    """How many of the other's values would have been rounded to another level than the copy's."""
    if not other.exact:
        return 0, 0
    return (_misplaced_evenly if one.kind in EVEN else _misplaced_in_blocks)(one, other.values)


def _misplaced_evenly(one: Segment, theirs: Float32) -> tuple[int, int]:
    """Levels at even distances, counted from the anchor. The outermost of 16 values may have been clipped: not tested."""
    import numpy as np

    rough, each = one.values, 1 if len(one.scales) == len(one.bits) else GROUP
    steps, anchors = (np.repeat(some, each)[: len(rough)] for some in (one.scales, one.anchors))
    values = anchors + np.rint((rough - anchors) / np.maximum(steps, np.float32(1e-30))) * steps
    starts = np.arange(0, len(rough), each)
    low, high = (np.repeat(pick.reduceat(values, starts), each)[: len(rough)] for pick in (np.minimum, np.maximum))
    tested = (values > low) & (values < high) if each > 1 else np.ones(len(rough), bool)
    # the step was rounded to float16 after the codes were found, and so was the lowest level where there is one
    off = np.abs(anchors - np.rint(anchors / np.maximum(steps, np.float32(1e-30))) * steps)
    lowest = 0 if (off <= steps / 64).mean() > 0.99 else np.maximum(np.abs(low), np.abs(high)) + high - low
    reach = np.abs(values) + lowest
    slack = reach * np.float32(F16_HALF) + steps / 1000 + np.float32(TINY)
    return int((tested & ~(np.abs(values - theirs) <= steps / 2 + slack)).sum()), int(tested.sum())


def _misplaced_in_blocks(one: Segment, theirs: Float32) -> tuple[int, int]:
    """4-bit levels as shares of a block's largest magnitude, which the other's values give exactly."""
    import numpy as np

    whole = len(theirs) // one.block * one.block
    if not whole or one.block % GROUP:
        return 0, 0
    ours, own = one.values[:whole].reshape(-1, one.block), theirs[:whole].reshape(-1, one.block)
    said, largest = one.scales[: whole // GROUP : one.block // GROUP], np.abs(own).max(axis=1)
    levels = np.unique(np.array(LEVELS[one.kind], np.float32))
    middles = (levels[1:] + levels[:-1]) / 2
    code = np.searchsorted(middles, ours / np.maximum(said, np.float32(1e-30))[:, None])
    share = own / np.maximum(largest, np.float32(1e-30))[:, None]
    edges = np.concatenate([[-np.inf], middles, [np.inf]]).astype(np.float32)
    misplaced = (share < edges[code] - ROUNDING) | (share > edges[code + 1] + ROUNDING)
    # double quantisation moves the magnitude by a few hundredths of the usual one
    misplaced |= (np.abs(said - largest) > 0.1 * largest + 0.05 * said.mean())[:, None]
    return int(misplaced.sum()), whole


def _error(pairs: list[tuple[Segment, Segment]]) -> float:
    """The copy's distance from the other as a share of the other's size, over what is quantised."""
    import numpy as np

    apart = sum(float(np.square(one.values - other.values, dtype=np.float64).sum()) for one, other in pairs)
    size = sum(float(np.square(other.values, dtype=np.float64).sum()) for _, other in pairs)
    return (apart / size) ** 0.5 if size else 0.0
