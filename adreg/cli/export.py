"""`adreg export`: adapters as other systems want to find them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adreg.cli.common import AllowOption, BaseOption, Json, Quiet, complete_reference, registry, resolve, warn_yanked
from adreg.cli.merging import base_of
from adreg.cli.output import Output, size
from adreg.cli.permits import Permits, remember
from adreg.cli.progress import progress
from adreg.errors import AuditRefused, UsageError

if TYPE_CHECKING:
    from adreg.audit.policy import Decision
    from adreg.export.ray.plan import RayPlan
    from adreg.registry.records import BaseRecord, VersionRecord
    from adreg.registry.registry import Registry

TARGET = "vllm"
LIVE = "deleted_at is null and yanked_at is null order by adapter.name, number"
app = typer.Typer(help="Adapters as other systems want to find them.", no_args_is_help=True)

Place = Annotated[str, typer.Argument(metavar="DEST", help="s3://bucket/prefix, gs://bucket/prefix or file:///folder.")]
Refs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[REF]...", help="Only these. Default: all of the base.", autocompletion=complete_reference),
]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan and send nothing.")]


@app.callback()
def group() -> None:
    """Adapters as other systems want to find them."""


@app.command("ray-layout")
def ray_layout(
    dest: Place,
    refs: Refs = None,
    base: BaseOption = None,
    allow: AllowOption = [],  # noqa: B006 - typer copies it
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Lay adapters of one base out where Ray Serve LLM looks for them, under names that mean the same version for ever.

    What is there is compared and never overwritten. Adapters that vLLM would not take are left out, or refused if named.
    Example: adreg export ray-layout s3://models/smollm2 --base smollm2
    """
    from adreg.export.ray.plan import plan_layout
    from adreg.export.ray.send import send_layout
    from adreg.registry.remotes.objects.url import find_store

    out, found, store = Output(json, quiet), registry(), find_store(dest)
    named = [resolve(ref) for ref in refs or ()]
    warn_yanked(out, named)
    record = found.bases.get(base) if base else base_of(found, named) if named else None
    if record is None:
        raise UsageError("there is nothing to export", "name a base with --base, or adapters")
    if allow and not named:
        raise UsageError("--allow is about adapters that are named", "name them: adreg export ray-layout DEST REF --allow ID")
    permits, refused = _judged(found, record, named, allow)
    plan = plan_layout(store, found.blobs, record, [version for version, _ in permits])
    if not dry_run:
        remember(out, found, permits)
        send_layout(store, found.blobs, plan, progress(out.human))
    _tell(out, plan, refused, dry_run)


def _judged(
    found: Registry, record: BaseRecord, named: Sequence[VersionRecord], allow: Collection[str]
) -> tuple[Permits, list[AuditRefused]]:
    """The versions that vLLM may serve, and why others may not. Raises `AuditRefused` for one that was named."""
    permits: Permits = []
    refused = []
    for version in named or _of_base(found, record):
        try:
            permits.append((version, _permit(found, record, version, allow)))
        except AuditRefused as error:
            if named:
                raise
            refused.append(error)
    return permits, refused


def _of_base(found: Registry, record: BaseRecord) -> list[VersionRecord]:
    """Every version that was trained on the base."""
    from adreg.audit.subject import base_verdict
    from adreg.registry.versions import find_versions

    return [one for one in find_versions(found.db, LIVE) if base_verdict(record.card, one.trained_on).fits]


def _permit(found: Registry, record: BaseRecord, version: VersionRecord, allow: Collection[str]) -> Decision:
    """What the audit says of serving `version` with vLLM; of other adapters nothing is asked, as they forbid nothing."""
    from adreg.audit.policy import require
    from adreg.audit.run import Speed, judge

    subject = found.adapters.subject(version, record.card, TARGET)
    report = judge(replace(subject, registry=replace(subject.registry, neighbours=())), Speed.VALUES)
    return require("serve", version.reference, report, allow)


def _tell(out: Output, plan: RayPlan, refused: Sequence[AuditRefused], dry_run: bool) -> None:
    from adreg.export.ray.layout import LISTED

    rows = [adapter.as_json() for adapter in plan.adapters]
    if out.json:
        out.data(_as_json(plan, rows, refused, dry_run))
        return
    columns = {
        "REFERENCE": lambda row: row["reference"],
        "MODEL": lambda row: row["model"],
        "STATE": lambda row: row["state"] if dry_run or row["state"] == "there" else "sent",
    }
    out.table(rows, columns, "model", f"no adapter of {plan.owner.base} is there for vLLM")
    for error in refused:
        out.note(f"left out: {error}", "yellow")
    if len(rows) > LISTED:
        out.note(f"Ray lists only {LISTED} of these {len(rows)}; it serves them all", "yellow")
    told = f"{len(plan.new)} of {len(rows)} adapters {'would be sent' if dry_run else 'sent'} to {plan.url}"
    out.note(f"✓ {told} ({size(plan.size)}), ranks up to {plan.rank}", "green")


def _as_json(plan: RayPlan, rows: Sequence[Any], refused: Sequence[AuditRefused], dry_run: bool) -> dict[str, Any]:
    left = [{"reference": error.subject, "why": str(error), "rule": error.findings[0].rule} for error in refused]
    told = {"path": plan.url, "base": plan.owner.base, "weights_id": plan.owner.weights_id, "rank": plan.rank}
    return {**told, "dry_run": dry_run, "adapters": list(rows), "left_out": left}
