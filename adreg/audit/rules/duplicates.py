"""D: duplicates and lineage, from what the registry knows of other adapters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from adreg.audit.findings import Severity
from adreg.audit.kinship import ENOUGH, Between, Kinship, inner_products, mixture
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Neighbour, Subject
from adreg.formats.bases.fingerprint import BaseIds

SAME_FUNCTION = 0.999
SAME_STRENGTH = 0.01


@rule(
    "D-DUP-1",
    "the same weights file under another reference",
    Severity.INFO,
    Cost.HEADER,
    why="two names for one thing: whoever improves one of them leaves the other behind",
    fix="point an alias at the version that is there",
)
def same_file(subject: Subject) -> Iterator[Seen]:
    for neighbour in subject.registry.neighbours:
        if _same_file(subject, neighbour):
            yield Seen(f"has the weights of {neighbour.reference}", neighbour.reference, seen=neighbour.weights_sha256)


def _same_file(subject: Subject, neighbour: Neighbour) -> bool:
    return bool(subject.registry.weights_sha256) and neighbour.weights_sha256 == subject.registry.weights_sha256


@rule(
    "D-DUP-2",
    "another adapter that does the same with other factors",
    Severity.WARN,
    Cost.TENSORS,
    why="a copy that was rotated or resized, or saved in another type: two names for one thing",
    fix="point an alias at the version that is there",
    varies="info where even the tensors are the same, and only the file's metadata or order differ",
)
def same_function(subject: Subject) -> Iterator[Seen]:
    for neighbour, kin in _kin(subject):
        if _same(kin):
            severity = Severity.INFO if _same_tensors(subject, neighbour) else None
            message, seen = f"does what {neighbour.reference} does", f"cosine {kin.cosine:.6f}"
            yield Seen(message, neighbour.reference, seen=seen, expected=f"under {SAME_FUNCTION}", severity=severity)


def _same(kin: Kinship) -> bool:
    return kin.cosine >= SAME_FUNCTION and math.isclose(kin.norm, kin.other_norm, rel_tol=SAME_STRENGTH)


def _same_tensors(subject: Subject, neighbour: Neighbour) -> bool:
    """Whether both files hold the same names, types, shapes and bytes, in whatever order."""
    ours, theirs = subject.tensors, neighbour.adapter.file if neighbour.adapter else {}
    return ours.keys() == theirs.keys() and all(
        (view.dtype, view.shape) == (theirs[name].dtype, theirs[name].shape) and view.data == theirs[name].data
        for name, view in ours.items()
    )


def _kin(subject: Subject) -> Iterator[tuple[Neighbour, Kinship]]:
    """The neighbours that have other bytes and touch the same weights, with how like them this adapter is."""
    for neighbour in subject.registry.neighbours:
        kin = None if _same_file(subject, neighbour) else subject.kinships.get(neighbour.reference)
        if kin is not None:
            yield neighbour, kin


@rule(
    "D-SUB-1",
    "an unrecorded merge of other adapters",
    Severity.INFO,
    Cost.TENSORS,
    why="its parents' data, licences and faults are its own; adapters can each be harmless and harmful together",
    fix="record the parents, and audit what is served together",
)
def hidden_merge(subject: Subject) -> Iterator[Seen]:
    recorded = {parent.found.reference for parent in subject.registry.parents if parent.found}
    related = {neighbour.reference: kin for neighbour, kin in _kin(subject)}
    if any(map(_same, related.values())) or any(_same_file(subject, one) for one in subject.registry.neighbours):
        return
    found = mixture(related, _between(subject))
    if found.residual < ENOUGH and not set(found.weights) <= recorded:
        told = " + ".join(f"{weight:.3g} x {reference}" for reference, weight in sorted(found.weights.items()))
        where = ", ".join(sorted(found.weights))
        yield Seen(f"is {told}", where, seen=f"residual {found.residual:.1e}", expected=f"above {ENOUGH}")


def _between(subject: Subject) -> Between:
    """The inner products of one neighbour with others, by reference."""
    opened = {neighbour.reference: neighbour.adapter for neighbour in subject.registry.neighbours}
    adapters = {reference: adapter for reference, adapter in opened.items() if adapter}

    def between(one: str, others: Sequence[str]) -> Mapping[str, float]:
        return inner_products(adapters[one], {other: adapters[other] for other in others})[1]

    return between


@rule(
    "D-LIN-1",
    "a declared parent that cannot be one",
    Severity.ERR,
    Cost.HEADER,
    why="the history that it tells is not true, and nobody can reproduce it from there",
    fix="push it again with the parents that it has",
    varies="warn for a parent that this registry does not hold",
)
def lineage(subject: Subject) -> Iterator[Seen]:
    for parent in subject.registry.parents:
        if parent.ancestor_of_itself:
            yield Seen(f"{parent.reference} descends from this very version", parent.reference, seen="a cycle")
        elif parent.found is None:
            message, fix = f"its parent {parent.reference} is not in this registry", "push or pull the parent as well"
            yield Seen(message, parent.reference, seen="absent", severity=Severity.WARN, fix=fix)
        elif not _same_base(subject.trained_on, parent.found.trained_on):
            yield Seen(f"its parent {parent.reference} was trained on another base", parent.reference, seen="another base")


def _same_base(one: BaseIds | None, other: BaseIds | None) -> bool:
    """Whether both were trained on the same values, as far as both are known."""
    if one is None or other is None:
        return True
    return one.weights_id == other.weights_id or one.values_id == other.values_id
