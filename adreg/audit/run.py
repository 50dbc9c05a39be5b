"""Runs rules over a subject, at the speed that was asked for, and reports which ran. Refuses nothing: policy does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum

from adreg.audit.findings import AuditReport, Finding, Severity, worst_first
from adreg.audit.rule import Cost, Rule
from adreg.audit.subject import Subject


class Speed(IntEnum):
    """How much is done: headers only; every value looked at once, which is all that can refuse a push; the exact spectra
    besides; or the base read as well."""

    HEADER = 0
    VALUES = 1
    FULL = 2
    DEEP = 3


SPEEDS = {
    Cost.HEADER: Speed.HEADER,
    Cost.BASE: Speed.HEADER,
    Cost.TOKENIZER: Speed.VALUES,
    Cost.TENSORS: Speed.VALUES,
    Cost.SPECTRA: Speed.FULL,
    Cost.DEEP: Speed.DEEP,
}


def judge(subject: Subject, speed: Speed = Speed.FULL) -> AuditReport:
    """Every rule that `speed` and what is known of `subject` allow."""
    from adreg.audit.catalogue import RULES

    reasons = {rule.id: _skip(rule, subject, speed) for rule in RULES}
    run = [rule for rule in RULES if not reasons[rule.id]]
    findings = [*_all(run, subject), *_unclaimed(run, subject)]
    return AuditReport(
        verdict=subject.verdict,
        findings=worst_first(findings),
        checked=tuple(rule.id for rule in run),
        skipped=tuple((id_, reason) for id_, reason in reasons.items() if reason),
        target=subject.target,
    )


def _all(rules: Sequence[Rule[Subject]], subject: Subject) -> Iterator[Finding]:
    for rule in rules:
        yield from rule.findings(subject)


def _skip(rule: Rule[Subject], subject: Subject, speed: Speed) -> str:
    """Why `rule` cannot run, or an empty string."""
    if SPEEDS[rule.cost] > speed:
        return f"needs a {'deep' if rule.cost is Cost.DEEP else 'full'} audit"
    if rule.cost is Cost.BASE and subject.base is None:
        return "needs a base"
    if rule.cost is Cost.TOKENIZER and subject.tokenizer is None:
        return "carries no tokenizer"
    if rule.cost in (Cost.TENSORS, Cost.SPECTRA, Cost.DEEP) and not subject.inspection.weights_sound:
        return "the weights file is broken"
    return ""


def _unclaimed(run: Sequence[Rule[Subject]], subject: Subject) -> Iterator[Finding]:
    """What breaks a format under a rule id that no rule of the catalogue has: it is never lost."""
    known = {rule.id for rule in run}
    for problem in subject.inspection.problems:
        if problem.rule not in known:
            why, fix = "what breaks its own format cannot be trusted", "fetch or save the file again"
            yield Finding(problem.rule, Severity.BLOCK, problem.why, why, fix, subject.name_of(problem.path))
