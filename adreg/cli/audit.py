"""`adreg audit`: does this adapter belong to this base, is it sound, and will the engine take it?"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adreg.cli.audit_gguf import audit_gguf, means_gguf
from adreg.cli.audit_report import Audited, print_audited
from adreg.cli.common import AllowOption, BaseOption, Json, Quiet, complete_reference, is_folder, quiet_libraries, registry
from adreg.cli.output import Output
from adreg.cli.progress import progress
from adreg.errors import UsageError
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.audit.basecard import BaseCard
    from adreg.audit.findings import AuditReport
    from adreg.audit.subject import Subject
    from adreg.registry.registry import Registry

FINDING_EXIT = 5


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

    form = _chosen_form({"json": json, "sarif": sarif, "junit": junit, "quiet": quiet})
    if headers and deep:
        raise UsageError("--headers and --deep exclude each other")
    out = Output(json or sarif or junit, quiet)
    report = _judged(subject, base, target.value, headers, deep, out)
    audited = Audited(subject, report, check_ids(allow), Severity[fail_on.name])
    print_audited(audited, form, out)
    if audited.failed:
        raise typer.Exit(FINDING_EXIT)


def _chosen_form(asked: Mapping[str, bool]) -> str:
    """The one form of output that was asked for. Raises `UsageError` for more than one."""
    chosen = [form for form, wanted in asked.items() if wanted]
    if len(chosen) > 1:
        raise UsageError("--json, --sarif, --junit and --quiet exclude each other")
    return chosen[0] if chosen else "people"


def _judged(subject: str, base: str | None, target: str, headers: bool, deep: bool, out: Output) -> AuditReport:
    """What the rules say of a version, an adapter folder, or a file."""
    from adreg.audit.run import Speed, judge

    found, speed = registry(), Speed.HEADER if headers else Speed.FULL
    if means_gguf(subject):
        if deep:
            raise UsageError("--deep runs adapter folders, no GGUF files", "adreg merge verifies a GGUF file as it writes it")
        return audit_gguf(found, subject, base, target, speed, out)
    seen = find_subject(found, subject, base, target, out)
    report = judge(seen, speed)
    return judge_deeply(found, seen, report, base, out) if deep else report


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
    from adreg.export.proof.probe import deepen, may_load

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
