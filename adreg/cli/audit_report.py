"""A report of the audit on stdout: for people, as JSON, SARIF or JUnit, or rule ids only. Judges nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from adreg.cli.output import COLOURS, Output, print_line
from adreg.cli.terminal import clean, coloured_stdout, styled

if TYPE_CHECKING:
    from adreg.audit.findings import AuditReport, Finding, Severity

REFUSES = {"block": "nothing may be done with it", "err": "merge and serve refuse it", "warn": "", "info": ""}


@dataclass(frozen=True)
class Audited:
    """What the audit says of `subject` (a path or a reference), the rules whose findings the user took upon himself, and
    the severity from which it counts as failed."""

    subject: str
    report: AuditReport
    allowed: frozenset[str]
    fail_on: Severity

    @property
    def failed(self) -> bool:
        return any(not is_allowed(finding, self.allowed) for finding in self.report.at_least(self.fail_on))


def print_audited(audited: Audited, form: str, out: Output) -> None:
    """Print it in `form`, a key of `FORMS`."""
    FORMS[form](audited, out)


def _print_people(audited: Audited, out: Output) -> None:
    print_report(audited.subject, audited.report, audited.allowed)


def _print_json(audited: Audited, out: Output) -> None:
    out.data({"subject": audited.subject, **audited.report.as_json(), "allowed": sorted(audited.allowed)})


def _print_sarif(audited: Audited, out: Output) -> None:
    from adreg.audit.catalogue import EVERY_RULE
    from adreg.audit.sarif import to_sarif

    print_line(to_sarif(audited.subject, audited.report, EVERY_RULE, audited.allowed))


def _print_junit(audited: Audited, out: Output) -> None:
    from adreg.audit.junit import to_junit

    print_line(to_junit(audited.subject, audited.report, audited.fail_on, audited.allowed))


def _print_ids(audited: Audited, out: Output) -> None:
    for finding in audited.report.findings:
        print_line(finding.rule)


FORMS: dict[str, Callable[[Audited, Output], None]] = {
    "people": _print_people,
    "json": _print_json,
    "sarif": _print_sarif,
    "junit": _print_junit,
    "quiet": _print_ids,
}


def is_allowed(finding: Finding, allowed: frozenset[str]) -> bool:
    """Whether the user took this finding upon himself; one that blocks cannot be."""
    return finding.rule in allowed and finding.severity.label != "block"


def print_report(subject: str, report: AuditReport, allowed: frozenset[str] = frozenset()) -> None:
    """Findings for people, grouped by severity with one line of what to do each, then the verdict."""
    colour = coloured_stdout()
    for label, group in groupby(report.findings, key=lambda finding: finding.severity.label):
        told = f"{label}: {REFUSES[label]}" if REFUSES[label] else label
        print_line(styled(told, COLOURS[label], colour))
        for finding in group:
            where = f"  {finding.where}" if finding.where else ""
            mark = "  allowed" if is_allowed(finding, allowed) else ""
            print_line(f"  {finding.rule}{clean(where)}{mark}")
            print_line(f"    {clean(finding.message)}: {clean(finding.why)}")
            print_line(styled(f"    fix: {clean(finding.fix)}", "dim", colour))
    count = len(report.findings)
    told = "clean" if not count else f"{count} finding{'s' if count > 1 else ''}"
    print_line(f"{clean(subject)}: {report.verdict.value}, {told}")


def print_findings(out: Output, report: AuditReport) -> None:
    """The findings of an operation that went through, a line each."""
    for finding in report.findings:
        out.note(f"{finding.severity.label} {finding.rule} {finding.message}", COLOURS[finding.severity.label])
