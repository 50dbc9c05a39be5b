"""`adreg audit`: does this adapter belong to this base, is it sound, and will the engine take it?"""

from __future__ import annotations

from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adreg.cli.audit_gguf import audit_gguf, means_gguf
from adreg.cli.common import AllowOption, BaseOption, Json, Quiet, complete_reference, is_folder, quiet_libraries, registry
from adreg.cli.output import COLOURS, Output, print_line
from adreg.cli.progress import progress
from adreg.cli.terminal import clean, coloured_stdout, styled
from adreg.errors import UsageError
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.audit.basecard import BaseCard
    from adreg.audit.findings import AuditReport, Finding
    from adreg.audit.subject import Subject
    from adreg.registry.registry import Registry

FINDING_EXIT = 5
REFUSES = {"block": "nothing may be done with it", "err": "merge and serve refuse it", "warn": "", "info": ""}


class FailOn(StrEnum):
    """The severity from which the exit code is 5."""

    WARN = "warn"
    ERR = "err"
    BLOCK = "block"


class Target(StrEnum):
    """The engine that is to take the adapter."""

    ADREG = "adreg"
    PEFT = "peft"
    VLLM = "vllm"
    LLAMA_CPP = "llama.cpp"
    OLLAMA = "ollama"


FailOnOption = Annotated[FailOn, typer.Option("--fail-on", help="Exit with 5 from this severity on.")]


def audit(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="REF|DIR|FILE",
            help="A version, an adapter folder, a safetensors file, or a GGUF model or LoRA.",
            autocompletion=complete_reference,
        ),
    ],
    base: BaseOption = None,
    target: Annotated[Target, typer.Option(help="The engine that is to take it.")] = Target.ADREG,
    fail_on: FailOnOption = FailOn.ERR,
    allow: AllowOption = [],  # noqa: B006 - typer copies it
    headers: Annotated[bool, typer.Option("--headers", help="Look at headers only; read no tensor.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Load the base and compare answers; takes its memory.")] = False,
    json: Json = False,
    sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF 2.1.0, for code scanning.")] = False,
    junit: Annotated[bool, typer.Option("--junit", help="Print JUnit XML, for build servers.")] = False,
    quiet: Quiet = False,
) -> None:
    """Check an adapter against its base: structure, shapes, exact identity, tokenizer, template, values.

    Example: adreg audit lighthouse:prod --base smollm2
    """
    from adreg.audit.findings import Severity
    from adreg.audit.policy import check_ids
    from adreg.audit.run import Speed, judge

    if json + sarif + junit + quiet > 1:
        raise UsageError("--json, --sarif, --junit and --quiet exclude each other")
    if headers and deep:
        raise UsageError("--headers and --deep exclude each other")
    out = Output(json or sarif or junit, quiet)
    found = registry()
    speed = Speed.HEADER if headers else Speed.FULL
    if means_gguf(subject):
        if deep:
            raise UsageError("--deep runs adapter folders, no GGUF files", "adreg merge verifies a GGUF file as it writes it")
        report = audit_gguf(found, subject, base, target.value, speed, out)
    else:
        seen = find_subject(found, subject, base, target.value, out)
        report = judge(seen, speed)
    if deep:
        report = judge_deeply(found, seen, report, base, out)
    severity = Severity[fail_on.name]
    allowed = check_ids(allow)
    if sarif:
        print_sarif(subject, report, allowed)
    elif junit:
        print_junit(subject, report, severity, allowed)
    elif json:
        out.data({"subject": subject, **report.as_json(), "allowed": sorted(allowed)})
    elif quiet:
        for finding in report.findings:
            print_line(finding.rule)
    else:
        print_report(subject, report, allowed)
    if any(not is_allowed(finding, allowed) for finding in report.at_least(severity)):
        raise typer.Exit(FINDING_EXIT)


def find_subject(found: Registry, text: str, base: str | None, target: str, out: Output) -> Subject:
    """What `text` means, a version or a path, beside the base that the user named or the version recorded."""
    from adreg.audit.subject import Subject
    from adreg.formats.adapters.adapter import WEIGHTS
    from adreg.formats.adapters.inspection import inspect_files, inspect_folder
    from adreg.formats.text.tokenizer import TokenizerFiles
    from adreg.registry.push import read_trained_on

    path = Path(text).expanduser()
    if path.is_file():
        return Subject(inspect_files({WEIGHTS: path}), base=_card(found, base, out), target=target)
    if not is_folder(text):
        version = found.adapters.resolve(parse_reference(text))
        return found.adapters.subject(version, _card(found, base or version.base, out), target)
    inspection = inspect_folder(path)
    trained_on = read_trained_on(path) if base else None
    return Subject(inspection, trained_on, _card(found, base, out), target=target, tokenizer=TokenizerFiles(path))


def judge_deeply(found: Registry, seen: Subject, report: AuditReport, base: str | None, out: Output) -> AuditReport:
    """`report` with what the base's weights and the answers with and without the adapter say."""
    from adreg.audit.run import Speed, judge
    from adreg.export.probe import deepen, may_load

    if seen.base is None:
        raise UsageError("--deep compares with a base, and none is known", "name it with --base")
    if not may_load(report):
        out.note("the base is not loaded: what blocks this adapter makes it unsafe to try", "yellow")
        return report
    quiet_libraries()
    record = found.bases.look(base or seen.base.name, progress(out.human))
    checkpoint = found.bases.current(record, progress(out.human))
    return judge(deepen(seen, checkpoint, progress(out.human)), Speed.DEEP)


def _card(found: Registry, base: str | None, out: Output) -> BaseCard | None:
    return found.bases.look(base, progress(out.human)).card if base else None


def is_allowed(finding: Finding, allowed: frozenset[str]) -> bool:
    """Whether the user took this finding upon himself; one that blocks cannot be."""
    return finding.rule in allowed and finding.severity.label != "block"


def print_sarif(subject: str, report: AuditReport, allowed: frozenset[str]) -> None:
    from adreg.audit.catalogue import EVERY_RULE
    from adreg.audit.sarif import to_sarif

    print_line(to_sarif(subject, report, EVERY_RULE, allowed))


def print_junit(subject: str, report: AuditReport, fail_on: int, allowed: frozenset[str]) -> None:
    from adreg.audit.findings import Severity
    from adreg.audit.junit import to_junit

    print_line(to_junit(subject, report, Severity(fail_on), allowed))


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
