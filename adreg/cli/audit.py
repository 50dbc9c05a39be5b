"""`adreg audit`: does this adapter belong to this base, and is it sound?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from adreg.cli.common import BaseOption, Json, Quiet, complete_reference, is_folder, registry
from adreg.cli.output import COLOURS, Output, print_line, stderr_console
from adreg.cli.progress import progress
from adreg.cli.terminal import clean
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.audit.basecard import BaseCard
    from adreg.audit.findings import AuditReport
    from adreg.registry.registry import Registry

FINDING_EXIT = 5
Subject = Annotated[
    str, typer.Argument(metavar="REF|DIR", help="A version, or an adapter folder.", autocompletion=complete_reference)
]


class FailOn(StrEnum):
    """The severity from which the exit code is 5."""

    WARN = "warn"
    ERR = "err"


FailOnOption = Annotated[FailOn, typer.Option("--fail-on", help="Exit with 5 from this severity on.")]


def audit(
    subject: Annotated[
        str, typer.Argument(metavar="REF|DIR", help="A version, or an adapter folder.", autocompletion=complete_reference)
    ],
    base: BaseOption = None,
    fail_on: FailOnOption = FailOn.ERR,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check an adapter against its base: structure, shapes, exact identity, tokenizer, template, values.

    Example: adreg audit lighthouse:prod --base smollm2
    """
    from adreg.audit.findings import Severity

    out = Output(json, quiet)
    report = _report(registry(), subject, base, out)
    if json:
        out.data({"subject": subject, **report.as_json()})
    elif quiet:
        for finding in report.findings:
            print_line(finding.rule)
    else:
        print_report(subject, report)
    if report.at_least(Severity[fail_on.name]):
        raise typer.Exit(FINDING_EXIT)


def _report(found: Registry, subject: str, base: str | None, out: Output) -> AuditReport:
    from adreg.audit.run import audit_folder
    from adreg.registry.push import plan_push, read_content

    if not is_folder(subject):
        version = found.adapters.resolve(parse_reference(subject))
        card = _card(found, base or version.base, out)
        return found.adapters.audit(version, card)
    folder = Path(subject).expanduser()
    trained_on = read_content(plan_push(folder).files).trained_on if base else None
    return audit_folder(folder, trained_on, _card(found, base, out))


def _card(found: Registry, base: str | None, out: Output) -> BaseCard | None:
    return found.bases.look(base, progress(out.human)).card if base else None


def print_report(subject: str, report: AuditReport) -> None:
    """Findings for people: one block each, then the verdict."""
    console = stderr_console()
    for finding in report.findings:
        label = finding.severity.label
        where = f"  {finding.where}" if finding.where else ""
        console.print(Text(f"{label:<5} {finding.rule}", style=COLOURS[label]) + Text(clean(where)), soft_wrap=True)
        console.print(Text(f"      {clean(finding.message)}: {clean(finding.why)}"), soft_wrap=True)
        console.print(Text(f"      fix: {clean(finding.fix)}", style="dim"), soft_wrap=True)
    count = len(report.findings)
    told = "clean" if not count else f"{count} finding{'s' if count > 1 else ''}"
    print_line(f"{clean(subject)}: {report.verdict.value}, {told}")


def print_findings(out: Output, report: AuditReport) -> None:
    """The findings of an operation that went through, a line each."""
    for finding in report.findings:
        out.note(f"{finding.severity.label} {finding.rule} {finding.message}", COLOURS[finding.severity.label])
