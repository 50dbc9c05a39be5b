"""B: the adapter against the base at hand, by names, shapes and content ids."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.basecard import BaseCard
from adreg.audit.findings import Severity, Verdict
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject
from adreg.formats.adapter import LoraModule

SILENT_LOAD = "PEFT loads it without a word and the answers are wrong"
RIGHT_BASE = "use the base it was trained on"


@rule("B-SHP-1", "the base has no such module", Severity.BLOCK, Cost.BASE, why=SILENT_LOAD, fix=RIGHT_BASE)
def missing_modules(subject: Subject) -> Iterator[Seen]:
    for module in subject.lora:
        if module.weight not in subject.card.shapes:
            yield Seen(f"{subject.card.name} has no module {module.name!r}", module.name)


@rule(
    "B-SHP-2",
    "an update of another shape than the base's weight",
    Severity.BLOCK,
    Cost.BASE,
    why="it was trained on a model of another size",
    fix=RIGHT_BASE,
)
def wrong_shapes(subject: Subject) -> Iterator[Seen]:
    for module in subject.lora:
        expected, seen = subject.card.shapes.get(module.weight), delta_shape(module, subject.card)
        if expected is not None and seen != expected:
            message = f"its update has shape {seen}, the base's weight {expected}"
            yield Seen(message, module.name, seen=seen, expected=expected)


def delta_shape(module: LoraModule, base: BaseCard) -> tuple[int, int]:
    """Shape of the update in the layout that the base stores the weight in."""
    out, inner = module.b.shape[0], module.a.shape[1]
    return (inner, out) if module.embedding or module.name in base.conv1d else (out, inner)


@rule(
    "B-SHP-4",
    "the base has modules of an adapted kind that the adapter does not touch",
    Severity.WARN,
    Cost.BASE,
    why="the base may have more layers than the training's",
    fix="check that the base is the one it was trained on",
)
def uncovered_layers(subject: Subject) -> Iterator[Seen]:
    if subject.raw.get("layers_to_transform") is not None:
        return
    adapted = {module.name for module in subject.lora}
    kinds = {name.rpartition(".")[2] for name in adapted}
    modules = {name.removesuffix(".weight") for name in subject.card.shapes if name.endswith(".weight")}
    missed = sorted(name for name in modules - adapted if name.rpartition(".")[2] in kinds)
    if missed:
        message = f"{len(missed)} modules of the adapted kinds are untouched, such as {missed[0]}"
        yield Seen(message, missed[0], seen=len(missed), expected=0)


@rule(
    "B-ID-1",
    "the base at hand is not the base of the training, by content",
    Severity.ERR,
    Cost.BASE,
    why=SILENT_LOAD,
    fix="give the base it was trained on, or train it again on this one",
    varies="info for the same values in other files, warn where nobody recorded the base, block for another architecture",
)
def base_identity(subject: Subject) -> Iterator[Seen]:
    found, name = subject.verdict, subject.card.name
    if found is Verdict.SAME_VALUES:
        message, why = f"{name} holds the same values in other files or types", "it behaves the same up to rounding"
        yield Seen(message, name, seen=found.value, severity=Severity.INFO, why=why, fix="nothing to do")
    elif found is Verdict.SAME_ARCH:
        same_weights = subject.trained_on is not None and subject.card.ids.weights_id == subject.trained_on.weights_id
        differs = "another configuration (config.json)" if same_weights else "other weights"
        yield Seen(f"{name} has the shape of its base, but {differs}", name, seen=found.value, expected=Verdict.EXACT.value)
    elif found is Verdict.DIFFERENT:
        message, why = f"{name} is another architecture than its base", "its updates belong to other weights"
        yield Seen(message, name, seen=found.value, expected=Verdict.EXACT.value, severity=Severity.BLOCK, why=why)
    elif found is Verdict.UNKNOWN:
        why, fix = "a wrong base of the same shape loads silently", "push it with --base"
        yield Seen("nobody recorded which base it was trained on", name, severity=Severity.WARN, why=why, fix=fix)


@rule(
    "B-QNT-1",
    "a quantised or re-typed copy of the base of the training, or the original of one",
    Severity.WARN,
    Cost.BASE,
    why="its answers differ a little from those of the training",
    fix="compare them, or use the base of the training",
    varies="it is a warning, and yet a merge needs `--allow B-QNT-1`",
)
def quantised_copy(subject: Subject) -> Iterator[Seen]:
    if subject.verdict is not Verdict.QUANT_OF or subject.trained_on is None:
        return
    name, relative = subject.card.name, subject.card.relative(subject.trained_on.weights_id)
    role = "a quantised or re-typed copy" if relative and relative.original else "the original"
    score = f" (score {relative.score:.2f}, by {relative.evidence})" if relative else ""
    message = f"{name} is {role} of the base that it was trained on{score}"
    yield Seen(message, name, seen=Verdict.QUANT_OF.value, expected=Verdict.EXACT.value)
