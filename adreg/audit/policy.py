"""Which findings forbid which operation, and what a person allowed in spite of them. Writes nothing: whoever carries the
operation out records the decision's event."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from adreg.audit.findings import AuditReport, Finding, Severity
from adreg.errors import AuditRefused, UsageError

FORBIDS: Mapping[str, Severity] = {
    "push": Severity.BLOCK,
    "merge": Severity.ERR,
    "export": Severity.ERR,
    "serve": Severity.ERR,
}
UNRECORDED, QUANTISED = {"B-ID-1": Severity.WARN}, {"B-QNT-1": Severity.WARN}
UNSERVED = {"K-CFG-2": Severity.WARN, "K-CFG-8": Severity.WARN}
ASKS: Mapping[str, Mapping[str, Severity]] = {
    "merge": UNRECORDED | QUANTISED,
    "export": UNRECORDED | QUANTISED,
    "serve": UNRECORDED | UNSERVED,
}
"""Findings that forbid an operation from a lower severity on, until a person allows them: a base that nobody recorded
(verdict UNKNOWN), for what is written a copy or the original of the recorded one (QUANT-OF), and for serving what adreg
only merges."""
VERB = "allowed"


@dataclass(frozen=True)
class Decision:
    """What the policy says of an operation: the findings that forbid it, and those that a person allowed."""

    operation: str
    report: AuditReport
    refused: tuple[Finding, ...]
    allowed: tuple[Finding, ...]

    @property
    def event(self) -> dict[str, Any] | None:
        """The detail of the history event `VERB`, or None where nothing had to be allowed."""
        if not self.allowed:
            return None
        findings = [finding.as_json() for finding in self.allowed]
        kept = [{key: finding[key] for key in ("rule", "severity", "where", "message")} for finding in findings]
        return {
            "operation": self.operation,
            "target": self.report.target,
            "verdict": self.report.verdict.value,
            "rules": sorted({finding.rule for finding in self.allowed}),
            "findings": kept,
        }


def decide(operation: str, report: AuditReport, allow: Collection[str] = ()) -> Decision:
    """Sort the findings against `operation` (a key of `FORBIDS`) into refused and allowed.

    `allow` are rule ids that the user takes upon himself. Raises `UsageError` for an id that no rule has. A finding that
    blocks cannot be allowed.
    """
    ids, forbidden, asked = check_ids(allow), FORBIDS[operation], ASKS.get(operation, {})
    against = tuple(one for one in report.findings if one.severity >= min(forbidden, asked.get(one.rule, forbidden)))
    allowed = tuple(one for one in against if one.rule in ids and one.severity < Severity.BLOCK)
    return Decision(operation, report, tuple(one for one in against if one not in allowed), allowed)


def require(operation: str, name: str, report: AuditReport, allow: Collection[str] = ()) -> Decision:
    """The decision that lets `operation` on the adapter `name` through. Raises `AuditRefused` where it does not."""
    decision = decide(operation, report, allow)
    if decision.refused:
        raise AuditRefused(operation, name, decision.refused)
    return decision


def check_ids(ids: Collection[str]) -> frozenset[str]:
    """`ids` as a set. Raises `UsageError` for one that no rule has."""
    from adreg.audit.catalogue import EVERY_RULE

    unknown = sorted(set(ids) - {rule.id for rule in EVERY_RULE})
    if unknown:
        raise UsageError(f"no audit rule is called {unknown[0]!r}", "`adreg audit` shows the ids of what it found")
    return frozenset(ids)
