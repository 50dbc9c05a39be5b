"""Adapters: push, pull, ls, show, log, rm, restore."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adreg.cli.audit import print_findings
from adreg.cli.common import BaseOption, Json, Quiet, Ref, name_and_alias, registry, resolve
from adreg.cli.output import Output, age, number, size
from adreg.cli.progress import progress
from adreg.errors import ConflictError
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.registry.records import VersionRecord

NewName = Annotated[str, typer.Argument(metavar="NAME[:ALIAS]", help="The adapter's name, and an alias for the new version.")]


def push(
    folder: Annotated[Path, typer.Argument(help="A PEFT adapter folder.")],
    name: NewName,
    base: BaseOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Store an adapter folder as the next version of NAME.

    Example: adreg push ./out lighthouse:prod --base smollm2
    """
    from adreg.registry.push import plan_push

    out, reference, found = Output(json, quiet), name_and_alias(name), registry()
    plan = plan_push(folder)
    record = found.bases.ensure(base, progress(out.human)) if base else None
    pushed = found.adapters.push(plan, reference.name, reference.alias, record)
    if plan.skipped:
        out.note(f"not stored: {', '.join(plan.skipped)}", "yellow")
    print_findings(out, pushed.report)
    out.done(_pushed(pushed.version, pushed.new), {**pushed.version.as_json(), "new": pushed.new}, "reference")


def _pushed(version: VersionRecord, new: bool) -> str:
    on = version.base or (version.trained_on.weights_id[:15] if version.trained_on else "an unknown base")
    verb = "pushed" if new else "already there:"
    return f"{verb} {version.reference} ({version.short_digest}, {size(version.size)}, r={version.summary['rank']} on {on})"


def pull(
    ref: Ref,
    folder: Annotated[Path | None, typer.Argument(help="Where to write it; a new folder called as the adapter.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a version's files to a folder, every byte checked."""
    version = resolve(ref)
    target = folder or Path(version.adapter.rpartition("/")[2])
    registry().adapters.pull(version, target)
    value = {**version.as_json(), "folder": str(target)}
    Output(json, quiet).done(f"pulled {version.reference} to {target}", value, "folder")


def list_(
    name: Annotated[str | None, typer.Argument(help="Show every version of this adapter.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List adapters, or the versions of one."""
    adapters = registry().adapters
    rows = [version.as_json() for version in (adapters.versions(name) if name else adapters.all())]
    columns = {
        "REFERENCE": lambda row: row["reference"],
        "DIGEST": lambda row: row["digest"][7:19],
        "ALIASES": lambda row: ",".join(row["aliases"]) or "-",
        "BASE": lambda row: row["base"] or "-",
        "RANK": lambda row: str(row["rank"]),
        "PARAMETERS": lambda row: number(row["parameters"]),
        "SIZE": lambda row: size(row["size"]),
        "CREATED": lambda row: age(row["created_at"]),
    }
    Output(json, quiet).table(rows, columns, "reference", "no adapters yet: adreg push FOLDER NAME")


def show(ref: Ref, json: Json = False, quiet: Quiet = False) -> None:
    """Show one version: what it is, what it was trained on, what was made of it."""
    found = registry()
    version = found.adapters.resolve(parse_reference(ref))
    artifacts = [vars(artifact) for artifact in found.artifacts.of(version)]
    run = found.runs.get(version.run) if version.run else None
    value = {**version.as_json(), "artifacts": artifacts, "run": run}
    Output(json, quiet).fields(value, "reference", _pairs(version, artifacts, run))


def _pairs(version: VersionRecord, artifacts: list[dict[str, object]], run: dict[str, object] | None) -> list[tuple[str, str]]:
    summary, ids = version.summary, version.trained_on
    scaling = "alpha/√r" if summary["rslora"] else "alpha/r"
    pairs = [
        ("reference", version.reference),
        ("digest", version.digest),
        ("aliases", ", ".join(version.aliases) or "-"),
        ("base", f"{version.base or summary['base_claim'] or '-'} ({summary['evidence']})"),
        ("weights id", ids.weights_id if ids else "-"),
        ("LoRA", f"r={summary['rank']}, alpha={summary['alpha']:g} ({scaling}) on {', '.join(summary['targets'])}"),
        ("parameters", f"{summary['parameters']:,} in {summary['modules']} modules, {summary['dtype']}"),
        ("size", size(version.size)),
        ("created", version.created_at),
    ]
    if run:
        pairs.append(("run", _run_line(run)))
    pairs += [("file", f"{digest[7:19]}  {path}") for path, digest in version.files.items()]
    return pairs + [("artifact", f"{artifact['kind']}  {artifact['path']}") for artifact in artifacts]


def _run_line(run: dict[str, object]) -> str:
    scores = run.get("eval")
    told = f"{str(run['id'])[:12]}, {run.get('outcome', 'finished')}"
    if isinstance(scores, dict) and scores.get("base") and scores.get("adapter"):
        told += f", held-out loss {scores['base']:.2f} → {scores['adapter']:.2f}"
    return told


def log(name: Annotated[str, typer.Argument(help="An adapter's name.")], json: Json = False, quiet: Quiet = False) -> None:
    """The history of an adapter, newest first."""
    rows = [{"at": event.at, "verb": event.verb, **event.detail} for event in registry().adapters.log(name)]
    columns = {"AT": lambda row: row["at"], "WHAT": lambda row: row["verb"], "DETAIL": _detail}
    Output(json, quiet).table(rows, columns, "at", "no history")


def _detail(row: dict[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in row.items() if key not in ("at", "verb"))


def rm(
    name: Annotated[str, typer.Argument(help="An adapter's name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take an adapter out of the registry's listings; `adreg restore` brings it back."""
    found = registry()
    versions = found.adapters.versions(name)
    aliases = [alias for version in versions for alias in version.aliases]
    if aliases and not yes:
        raise ConflictError(f"aliases still mean versions of {name!r}: {', '.join(aliases)}", f"adreg rm {name} --yes")
    found.adapters.remove(name)
    text = f"removed {name} ({len(versions)} versions); adreg restore {name} brings it back"
    Output(json, quiet).done(text, {"name": name, "versions": len(versions)}, "name")


def restore(
    name: Annotated[str, typer.Argument(help="A removed adapter's name.")], json: Json = False, quiet: Quiet = False
) -> None:
    """Bring a removed adapter back."""
    registry().adapters.restore(name)
    Output(json, quiet).done(f"restored {name}", {"name": name}, "name")
