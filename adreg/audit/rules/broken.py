"""The way from a broken format to a rule: `formats/` finds the fault and names the rule, the rule explains it."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Check, Cost, Rule, Seen
from adreg.audit.subject import Subject

UNTRUSTED = "what breaks its own format cannot be trusted"
SAVE_AGAIN = "fetch or save the file again"


def problems_of(id_: str) -> Check[Subject]:
    """A check that reports what `formats/` found against the rule `id_`."""

    def check(subject: Subject) -> Iterator[Seen]:
        for problem in subject.problems(id_):
            yield Seen(problem.why, subject.name_of(problem.path))

    return check


def format_rule(id_: str, title: str, why: str = UNTRUSTED, fix: str = SAVE_AGAIN) -> Rule[Subject]:
    """A blocking rule that only `formats/` can break."""
    return Rule(id_, title, Severity.BLOCK, Cost.HEADER, why, fix, problems_of(id_))
