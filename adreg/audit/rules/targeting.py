"""K-KEY-4: whether target_modules, as a list or as one expression, asks for the modules that have tensors."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject
from adreg.audit.weights import BaseWeights
from adreg.formats.adapters.familykeys import Style
from adreg.formats.adapters.matching import matching
from adreg.formats.canonical import canonical_name

ALL_LINEAR = "all-linear"
FIELD = "target_modules"


@rule(
    "K-KEY-4",
    "a target without tensors, or tensors without a target",
    Severity.ERR,
    Cost.HEADER,
    why="a target without tensors starts untrained, and tensors without a target are ignored, both without a word",
    fix="use the adapter_config.json that was saved with these tensors",
    varies="warn for modules of the base that an expression asks for; info for an expression that takes too long to be tried",
)
def targets_and_tensors(subject: Subject) -> Iterator[Seen]:
    targets, family = subject.raw.get(FIELD), subject.family
    if not (family.modules or family.sides) or subject.problems("K-CFG-1"):
        return
    if isinstance(targets, list):
        yield from _of_list(subject, [str(target) for target in targets])
    elif isinstance(targets, str) and targets.lower() != ALL_LINEAR and not subject.problems("K-CFG-5"):
        yield from _of_expression(subject, targets)


def _of_list(subject: Subject, targets: list[str]) -> Iterator[Seen]:
    family = subject.family
    ends = {end for name in [*family.modules, *family.sides] for end in _endings(name)}
    for target in targets:
        if target != ALL_LINEAR and target not in ends:
            yield Seen(f"target_modules names {target!r}, and no tensor belongs to it", target)
    if ALL_LINEAR not in targets and _names_are_targets(subject):
        yield from _untargeted([name for name in family.modules if not _is_listed(subject, name, set(targets))])


def _of_expression(subject: Subject, expression: str) -> Iterator[Seen]:
    if not _names_are_targets(subject):
        return
    adapted, there = list(subject.family.modules), _modules_of_base(subject)
    found = matching(expression, sorted({*adapted, *there}))
    if found is None:
        message, fix = "its expression takes too long to be tried", "write plain module names"
        yield Seen(message, FIELD, seen=expression[:80], severity=Severity.INFO, why="nobody can say what it asks for", fix=fix)
        return
    yield from _untargeted([name for name in adapted if name not in found])
    known = {canonical_name(name) for name in [*adapted, *subject.family.sides]}
    lacking = [name for name in there if name in found and canonical_name(name) not in known]
    if lacking:
        message = f"target_modules asks for {len(lacking)} modules of the base that have no tensors, such as {lacking[0]}"
        yield Seen(message, lacking[0], seen=len(lacking), expected=0, severity=Severity.WARN)


def _untargeted(modules: list[str]) -> Iterator[Seen]:
    if modules:
        message = f"{len(modules)} modules have tensors that target_modules does not ask for"
        yield Seen(message, modules[0], seen=len(modules), expected=0)


def _names_are_targets(subject: Subject) -> bool:
    """Whether tensors are called after modules, by PEFT's names: not after bare parameters, nor in another tool's spelling."""
    return Style.PEFT in subject.family.styles and not subject.raw.get("target_parameters")


def _modules_of_base(subject: Subject) -> list[str]:
    """The base's modules with a weight of two dimensions. Experts are no modules once they are loaded."""
    if subject.base is None or subject.raw.get("exclude_modules"):
        return []
    base = BaseWeights(subject.base)
    named = (own for name, own in base.modules.items() if len(base.shapes[f"{name}.weight"]) == 2)
    return [own for own in named if ".experts." not in own]


def _is_listed(subject: Subject, module: str, targets: set[str]) -> bool:
    chosen = subject.raw.get("layers_to_transform")
    layers = chosen if isinstance(chosen, list) else [] if chosen is None else [chosen]
    found = [int(part) for part in module.split(".") if part.isdecimal() and len(part) < 6]
    return any(end in targets for end in _endings(module)) and (not layers or not found or found[0] in layers)


def _endings(module: str) -> Iterator[str]:
    """`module` and what remains of it behind each dot."""
    parts = module.split(".")
    yield from (".".join(parts[start:]) for start in range(len(parts)))
