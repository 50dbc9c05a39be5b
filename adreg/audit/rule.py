"""What a rule is: a pure function that looks at a subject and yields what it saw, with the words that explain it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from adreg.audit.findings import Finding, Severity

S = TypeVar("S")


class Cost(StrEnum):
    """What a rule needs. `header`: names, shapes, JSON and the folder's listing. `base`: a base card besides.
    `tokenizer`: its tokenizer read and its chat templates rendered. `tensors`: one pass over the adapter's tensors.
    `spectra`: the exact singular values of its updates. `deep`: the base's weights, or logits."""

    HEADER = "header"
    BASE = "base"
    TOKENIZER = "tokenizer"
    TENSORS = "tensors"
    SPECTRA = "spectra"
    DEEP = "deep"


@dataclass(frozen=True)
class Seen:
    """One observation of a rule. `severity`, `why` and `fix` stand in for the rule's own where they depend on what was
    seen; a rule that does so says when in `varies`."""

    message: str
    where: str = ""
    seen: object = ""
    expected: object = ""
    severity: Severity | None = None
    why: str = ""
    fix: str = ""


Check = Callable[[S], Iterable[Seen]]


@dataclass(frozen=True)
class Rule(Generic[S]):
    """One check of the catalogue. `title` says what it finds; `needs_corpus`: its threshold is a guess until measured
    on many adapters, so it only informs."""

    id: str
    title: str
    severity: Severity
    cost: Cost
    why: str
    fix: str
    check: Check[S]
    varies: str = ""
    needs_corpus: bool = False

    def findings(self, subject: S) -> Iterator[Finding]:
        """What the rule finds in `subject`."""
        for one in self.check(subject):
            yield Finding(
                rule=self.id,
                severity=self.severity if one.severity is None else one.severity,
                message=one.message,
                why=one.why or self.why,
                fix=one.fix or self.fix,
                where=one.where,
                seen=str(one.seen),
                expected=str(one.expected),
            )


def rule(
    id_: str,
    title: str,
    severity: Severity,
    cost: Cost,
    *,
    why: str,
    fix: str,
    varies: str = "",
    needs_corpus: bool = False,
) -> Callable[[Check[S]], Rule[S]]:
    """Make the decorated check a `Rule`."""

    def made(check: Check[S]) -> Rule[S]:
        return Rule(id_, title, severity, cost, why, fix, check, varies, needs_corpus)

    return made
