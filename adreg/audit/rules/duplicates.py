"""D: duplicates and lineage, from what the registry knows of other adapters."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject


@rule(
    "D-DUP-1",
    "the same weights file under another reference",
    Severity.INFO,
    Cost.HEADER,
    why="two names for one thing: whoever improves one of them leaves the other behind",
    fix="point an alias at the version that is there",
)
def same_file(subject: Subject) -> Iterator[Seen]:
    known = subject.registry
    for neighbour in known.neighbours:
        if known.weights_sha256 and neighbour.weights_sha256 == known.weights_sha256:
            yield Seen(f"has the weights of {neighbour.reference}", neighbour.reference, seen=known.weights_sha256)
