"""Q: what the numbers themselves say: broken, dead and lost values, and how a module's update behaves on the base."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject
from adreg.formats.adapters.family import Parts
from adreg.formats.adapters.familykeys import Kind
from adreg.formats.adapters.layers import place_of
from adreg.formats.dtypes import FLOATS
from adreg.formats.safetensors import TensorView

SOME_DEAD = 0.05
F16_LARGEST, F16_COARSE = 65504.0, 2.0**-16
NO_EFFECT = 1e-6
PRODUCT = frozenset({
    "A", "B", "E", "embedding_A", "embedding_B", "w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "lambda_b", "lambda_d",
})  # fmt: skip


@rule(
    "Q-NAN-1",
    "NaN or infinity",
    Severity.BLOCK,
    Cost.TENSORS,
    why="with SDPA attention the model may still answer, and a merge writes the NaNs",
    fix="take an earlier checkpoint of the training",
)
def not_finite(subject: Subject) -> Iterator[Seen]:
    for name, largest in subject.magnitudes.items():
        if not math.isfinite(largest):
            yield Seen("holds NaN or infinity", name)


@rule(
    "Q-ZERO-1",
    "no module does anything",
    Severity.ERR,
    Cost.TENSORS,
    why="the adapter is the base under another name",
    fix="check that the training ran",
    varies="warn where it brings other trained tensors, such as modules_to_save",
)
def no_effect(subject: Subject) -> Iterator[Seen]:
    dead, count = dead_modules(subject)
    if count and len(dead) == count:
        others = subject.family.saved or subject.family.sides or Counter(_other_parts(subject))
        message = f"every update is zero ({dead[0][1]}): it does nothing"
        severity = Severity.WARN if others else None
        yield Seen(message, seen=f"{count} of {count} modules", expected="none", severity=severity)


@rule(
    "Q-ZERO-2",
    "some modules do nothing",
    Severity.WARN,
    Cost.TENSORS,
    why="part of it was never trained",
    fix="check the targets",
)
def some_dead(subject: Subject) -> Iterator[Seen]:
    dead, count = dead_modules(subject)
    if count * SOME_DEAD <= len(dead) < count and dead:
        share = f"{len(dead)} of {count} modules"
        yield Seen(f"{share} do nothing ({_depths(dead)})", dead[0][0], seen=share, expected=f"under {SOME_DEAD:.0%}")


def dead_modules(subject: Subject) -> tuple[list[tuple[str, str]], int]:
    """The modules whose update is zero, each with what makes it so, and of how many."""
    whole = {name: parts for name, parts in subject.family.modules.items() if name not in subject.family.incomplete}
    judged = {name: parts for name, parts in whole.items() if all(view.dtype in FLOATS for view in parts.values())}
    found = ((name, _zero_part(subject, parts)) for name, parts in judged.items())
    return [(name, part) for name, part in found if part], len(judged)


def _zero_part(subject: Subject, parts: Parts) -> str:
    """The part that makes the module's update zero, or an empty string. DoRA's magnitude is not looked at."""
    for part, view in sorted(parts.items()):
        factor = part in PRODUCT or (part == "R" and subject.family.kind is Kind.OFT)
        if factor and subject.magnitudes[view.name] == 0:
            return f"{part} is zero"
        if part == "l" and bool((view.float32() == 1).all()):
            return "l is one"
    return ""


def _other_parts(subject: Subject) -> Iterator[str]:
    for parts in subject.family.modules.values():
        yield from (part for part in parts if part in ("lora_bias", "token_delta"))


def _depths(dead: list[tuple[str, str]]) -> str:
    layers = sorted({place.layer for place in (place_of(name) for name, _ in dead) if place.layer >= 0})
    return f"in layers {', '.join(map(str, layers[:8]))}{' …' if len(layers) > 8 else ''}" if layers else dead[0][1]


@rule(
    "Q-OVF-1",
    "values that F16 cannot hold",
    Severity.WARN,
    Cost.TENSORS,
    why="a GGUF adapter or a merge in F16 would hold infinities, or keep fewer digits than BF16 has",
    fix="export it as bf16 or f32",
)
def beyond_f16(subject: Subject) -> Iterator[Seen]:
    too_large: list[tuple[str, float]] = []
    too_small: list[tuple[str, float]] = []
    for name, largest in subject.magnitudes.items():
        if subject.tensors[name].dtype != "F16" and name not in subject.family.foreign:
            if F16_LARGEST < largest < math.inf:
                too_large.append((name, largest))
            elif 0 < largest < F16_COARSE:
                too_small.append((name, largest))
    for what, limit, found in (("above", F16_LARGEST, too_large), ("all below", F16_COARSE, too_small)):
        if found:
            name, value = found[0]
            message = f"{len(found)} tensor{'s hold' if len(found) > 1 else ' holds'} values {what} {limit:.5g}"
            yield Seen(message, name, seen=f"{value:.3g}", expected=f"{F16_COARSE:.3g} to {F16_LARGEST:.0f}")


@rule(
    "Q-DTY-1",
    "modules stored in different types",
    Severity.INFO,
    Cost.HEADER,
    why="it was put together from several trainings, or half converted",
    fix="save it in one type",
)
def mixed_types(subject: Subject) -> Iterator[Seen]:
    used = Counter(view.dtype for view in _factors(subject) if view.dtype in FLOATS)
    if len(used) > 1:
        seen = ", ".join(f"{count} {dtype}" for dtype, count in used.most_common())
        yield Seen(f"its tensors are {seen}", seen=seen, expected="one type")


def _factors(subject: Subject) -> Iterator[TensorView]:
    for parts in subject.family.modules.values():
        yield from parts.values()


@rule(
    "Q-DEP-1",
    "layers between adapted ones that have no update",
    Severity.WARN,
    Cost.HEADER,
    why="a merge of files or a cut upload lost them; what is left was not trained to work alone",
    fix="fetch or save the adapter again",
)
def gaps(subject: Subject) -> Iterator[Seen]:
    if subject.base is not None or _chose_layers(subject):
        return  # with a base at hand B-SHP-4 knows which modules there are
    stacks: dict[str, set[int]] = {}
    for place in map(place_of, subject.family.modules):
        if place.layer >= 0:
            stacks.setdefault(place.stack, set()).add(place.layer)
    for stack, layers in sorted(stacks.items()):
        missing = sorted(set(range(min(layers), min(max(layers), min(layers) + 1000))) - layers)
        if missing and not _regular(sorted(layers)):
            told = f"layers {min(layers)} to {max(layers)} are adapted, but not {', '.join(map(str, missing[:8]))}"
            yield Seen(told, f"{stack}.{missing[0]}", seen=f"{len(layers)} layers", expected=f"{len(layers) + len(missing)}")


def _chose_layers(subject: Subject) -> bool:
    """Whether the configuration itself picks layers: by number, or by an expression or names that hold numbers."""
    raw = subject.raw
    targets = raw.get("target_modules")
    if raw.get("layers_to_transform") is not None or isinstance(targets, str):
        return True
    names = [*(targets if isinstance(targets, list) else ()), *_names(raw.get("exclude_modules"))]
    return any(place_of(f"{name}.").layer >= 0 or str(name).isdecimal() for name in names)


def _names(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [f"0.{value}"]


def _regular(layers: list[int]) -> bool:
    """Whether they come at equal steps, three or more of them, as the attention layers of a hybrid model do."""
    return len(layers) > 2 and len({second - first for first, second in pairwise(layers)}) == 1


@rule(
    "Q-BEH-1",
    "answers that the adapter does not change, or that are not numbers",
    Severity.WARN,
    Cost.DEEP,
    why="an adapter without effect is the base under another name; a NaN logit is no answer",
    fix="check that the training ran, and that it was trained on this base",
    varies="err for NaN logits, and where PEFT does not load it",
)
def behaviour(subject: Subject) -> Iterator[Seen]:
    count = len(subject.probe)
    broken = [probe for probe in subject.probe if probe.has_nan]
    most = max((probe.largest_change for probe in subject.probe), default=0.0)
    if subject.probe_failure:
        yield Seen("PEFT does not load it on its base", seen=subject.probe_failure, severity=Severity.ERR)
    elif broken:
        seen = f"{len(broken)} of {count} prompts"
        yield Seen("gives logits that are NaN", f"prompt {broken[0].prompt!r}", seen, "none", Severity.ERR)
    elif count and most < NO_EFFECT:
        yield Seen(f"changes the answer to none of {count} prompts", seen=f"{most:.1e} nats", expected=f"above {NO_EFFECT:.0e}")
