"""Adapters: push, pull, rm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adreg.cli.common import BaseOption, Json, Quiet, name_and_alias, registry, resolve
from adreg.cli.output import Output, size
from adreg.errors import ConflictError, UsageError
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.references import Reference
    from adreg.registry.intake import Pushed
    from adreg.registry.records import VersionRecord
    from adreg.registry.registry import Registry

Source = Annotated[str, typer.Argument(metavar="FOLDER|REF", help="A PEFT adapter folder; with --to also a stored version.")]
NewName = Annotated[
    str | None, typer.Argument(metavar="NAME[:ALIAS]", help="The adapter's name, and an alias for the new version.")
]
To = Annotated[str | None, typer.Option("--to", metavar="REMOTE", help="Send it on, to a remote or to hf:org/name.")]
Private = Annotated[bool, typer.Option("--private", help="On the hub: a new repository is private.")]
Overwrite = Annotated[bool, typer.Option("--overwrite-card", help="On the hub: replace a README.md that adreg did not write.")]


def push(
    source: Source,
    name: NewName = None,
    base: BaseOption = None,
    to: To = None,
    private: Private = False,
    overwrite_card: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Store an adapter folder as the next version of NAME, and send it on; or send a stored version.

    Example: adreg push ./out lighthouse:prod --base smollm2
    """
    out, found = Output(json, quiet), registry()
    if name is None and to is None:
        raise UsageError("a pushed folder needs a NAME", f"adreg push {source} NAME[:ALIAS]")
    if name is None:
        version, alias = resolve(source), parse_reference(source).alias
    else:
        reference = name_and_alias(name)
        pushed = store(found, Path(source), reference, base, out)
        version, alias = pushed.version, reference.alias
        if to is None or out.human:
            out.done(_pushed(version, pushed.new), {**version.as_json(), "new": pushed.new}, "reference")
    if to is not None:
        from adreg.cli.transfers import HubWishes, send_to

        send_to(found, version, alias, to, HubWishes(private, overwrite_card), out)


def store(found: Registry, folder: Path, reference: Reference, base: str | None, out: Output) -> Pushed:
    from adreg.cli.audit_report import print_findings
    from adreg.cli.progress import progress
    from adreg.registry.push import plan_push

    plan = plan_push(folder)
    record = found.bases.ensure(base, progress(out.human)) if base else None
    pushed = found.adapters.push(plan, reference.name, reference.alias, record)
    if plan.skipped:
        out.note(f"not stored: {', '.join(plan.skipped)}", "yellow")
    print_findings(out, pushed.report)
    return pushed


def _pushed(version: VersionRecord, new: bool) -> str:
    on = version.base or (version.trained_on.weights_id[:15] if version.trained_on else "an unknown base")
    verb = "pushed" if new else "already there:"
    return f"{verb} {version.reference} ({version.short_digest}, {size(version.size)}, {version.kind} on {on})"


def pull(
    ref: Annotated[str, typer.Argument(metavar="REF", help="A reference; REMOTE/REF or hf:org/name[@revision] from there.")],
    folder: Annotated[Path | None, typer.Argument(help="Where to write it; a new folder called as the adapter.")] = None,
    hardlink: Annotated[
        bool, typer.Option("--hardlink", help="Share read-only files with the registry where possible.")
    ] = False,
    name: Annotated[str | None, typer.Option("--name", help="From the hub: what it is to be called here.")] = None,
    base: BaseOption = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a version's files to a folder, every byte checked; from elsewhere it comes into this registry first.

    Example: adreg pull lab/lighthouse:prod ./out
    """
    out, found = Output(json, quiet), registry()
    pushed = _fetched(found, ref, name, base, out)
    version = pushed.version if pushed else resolve(ref)
    if pushed and folder is None:
        out.done(_pushed(version, pushed.new), {**version.as_json(), "new": pushed.new}, "reference")
        return
    target = folder or Path(version.adapter.rpartition("/")[2])
    found.adapters.pull(version, target, hardlink)
    value = {**version.as_json(), "folder": str(target)}
    out.done(f"pulled {version.reference} to {target}", value, "folder")


def _fetched(found: Registry, ref: str, name: str | None, base: str | None, out: Output) -> Pushed | None:
    """What a reference to somewhere else brought here; None for a reference to this registry."""
    if ref.startswith("hf:"):
        from adreg.cli.transfers import pull_hub

        return pull_hub(found, ref, name, base, out)
    if name or base:
        raise UsageError("--name and --base are for what comes from the hub", "elsewhere names and bases are recorded")
    if "/" not in ref or not found.settings.database.exists():
        return None
    from adreg.cli.transfers import pull_remote, remote_of

    remote = remote_of(found, ref)
    return pull_remote(found, *remote, out) if remote else None


def rm(
    name: Annotated[str, typer.Argument(help="An adapter's name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Although a protected alias means one of its versions.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take an adapter out of the registry's listings; `adreg restore` brings it back."""
    found = registry()
    versions = found.adapters.versions(name)
    aliases = [alias for version in versions for alias in version.aliases]
    if aliases and not (yes or force):
        raise ConflictError(f"aliases still mean versions of {name!r}: {', '.join(aliases)}", f"adreg rm {name} --yes")
    found.adapters.remove(name, force)
    text = f"removed {name} ({len(versions)} versions); adreg restore {name} brings it back"
    Output(json, quiet).done(text, {"name": name, "versions": len(versions)}, "name")
