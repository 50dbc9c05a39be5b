"""Upkeep: fsck, gc, backup, restore, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from adreg.cli.common import Json, Quiet, is_folder, registry
from adreg.cli.output import Output, size
from adreg.cli.progress import progress
from adreg.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from adreg.registry.registry import Registry
    from adreg.registry.upkeep.findings import FsckReport
    from adreg.registry.upkeep.gcplan import GcPlan

DAMAGE, UNFIT = 5, 1
DAY = 24 * 3600.0


class FsckCommand(TyperCommand):
    """Lets `--read-data` stand alone, as restic does: it means all of them."""

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        return super().parse_args(context, ["--read-data=all" if word == "--read-data" else word for word in words])


COMMAND_CLASSES = {"fsck": FsckCommand}


def fsck(
    read_data: Annotated[
        str | None,
        typer.Option("--read-data", metavar="[=n/t|=x%]", help="Read all blobs, or =2/5 the second of five parts, or =10%."),
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be: damaged blobs are fetched again.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check the registry: its database, every row, every blob. Exit code 5 means damage.

    Example: adreg fsck --read-data=2/7
    """
    from adreg.registry.upkeep.fsck import fsck as check
    from adreg.registry.upkeep.reading import parse_read_data

    out, found = Output(json, quiet), registry()
    report = check(found, parse_read_data(read_data) if read_data else None, progress(out.human))
    if repair:
        report = _repaired(found, report, out)
    _print_report(report, out)
    if not report.clean:
        raise typer.Exit(DAMAGE)


def _repaired(found: Registry, report: FsckReport, out: Output) -> FsckReport:
    from adreg.registry.remotes.catalog import refetcher
    from adreg.registry.upkeep.repair import repair

    def refetch(digest: str, size: int, target: Path) -> bool:
        return refetcher(found)(digest, size, target)  # it reads the database, which may be beyond that

    return repair(found, report, refetch, progress(out.human))


def _print_report(report: FsckReport, out: Output) -> None:
    if out.json:
        out.data(report.as_json())
        return
    rows = [vars(problem) for problem in report.problems]
    columns = {
        "": lambda row: "repaired" if row["repaired"] else "DAMAGE",
        "WHAT": lambda row: row["kind"],
        "WHICH": lambda row: row["subject"],
        "WHY": lambda row: row["message"],
    }
    if rows:
        out.table(rows, columns, "subject", "")
    for note in report.notes:
        out.note(f"note: {note}")
    counts = report.counts
    told = ", ".join(_count(counts.get(kind, 0), kind) for kind in ("adapter", "version", "blob"))
    told += f", {counts['read']} of them read" if "read" in counts else ""
    if report.clean and out.human:
        out.done(f"sound: {told}", {}, "")
    elif not report.clean:
        left = sum(not problem.repaired for problem in report.problems)
        out.note(f"{_count(left, 'problem')} in {told}", "red")
        hopeless = report.of("database", "schema")
        out.hint(
            "adreg restore BACKUP --replace"
            if hopeless
            else "adreg fsck --repair mends what can be; adreg restore BACKUP the rest"
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def gc(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove; without it, only say what would be.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed (the default).")] = False,
    grace: Annotated[float, typer.Option("--grace", min=0, metavar="HOURS", help="Keep what is younger.")] = 24,
    purge_after: Annotated[
        float, typer.Option("--purge-after", min=0, metavar="DAYS", help="Keep removed adapters restorable for so long.")
    ] = 30,
    empty_trash: Annotated[bool, typer.Option("--empty-trash", help="Empty trash/ now, not when it is old.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what nothing needs any more; with --yes, move it to trash/, which a later clean-up empties.

    Example: adreg gc --yes
    """
    from adreg.errors import UsageError
    from adreg.registry.upkeep.gcplan import GcPolicy, plan_gc

    if yes and dry_run:
        raise UsageError("--yes and --dry-run contradict each other", "leave one of them out")
    out, found = Output(json, quiet), registry()
    plan = plan_gc(found, GcPolicy(grace * 3600, purge_after * DAY, empty_trash))
    if yes:
        _clean(plan, out)
        return
    if out.json:
        out.data({"removed": False, **plan.as_json()})
        return
    columns = {"WHAT": lambda row: row["what"], "SIZE": lambda row: size(row["size"]), "WHICH": lambda row: row["which"]}
    out.table(list(_gc_rows(plan)), columns, "which", "nothing to remove")
    _note_plan(plan, out)
    if plan.size or plan.expired or plan.blobs:
        out.hint("adreg gc --yes removes it")


def _gc_rows(plan: GcPlan) -> Iterator[dict[str, Any]]:
    for adapter in plan.expired:
        yield {
            "what": f"removed {adapter.deleted_at[:10]}",
            "size": 0,
            "which": f"{adapter.name} ({adapter.versions} versions)",
        }
    for blob in plan.blobs:
        yield {"what": "blob", "size": blob.size, "which": blob.digest}
    for what, files in (("half-written", plan.leftovers), ("trash", plan.trash)):
        for file in files:
            yield {"what": what, "size": file.size, "which": str(file.path)}


def _note_plan(plan: GcPlan, out: Output) -> None:
    if plan.expired:
        out.note("the blobs of removed adapters go too, unless something else needs them")
    if plan.waiting:
        out.note(f"{_count(plan.waiting, 'more blob')} that nothing needs: too young, or a push is under way")
    for path in plan.odd:
        out.note(f"left alone: {path} is no blob", "yellow")


def _clean(plan: GcPlan, out: Output) -> None:
    from adreg.registry.upkeep.gc import run_gc

    result = run_gc(registry(), plan, progress(out.human))
    told = f"moved {_count(result.trashed, 'blob')} ({size(result.trashed_size)}) to trash/, freed {size(result.unlinked_size)}"
    told += f", purged {_count(result.purged, 'removed adapter')}" if result.purged else ""
    _note_plan(plan, out)
    out.done(told, {"removed": True, **vars(result), "plan": plan.as_json()}, "trashed")


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; one that is there is replaced when the new one is whole.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Save the registry to one file, while others may go on using it. Bases are not in it: they stay where they are.

    Example: adreg backup /mnt/safe/adreg-monday.tar
    """
    from adreg.registry.upkeep.backup import backup as save

    out = Output(json, quiet)
    saved = save(registry(), file, progress(out.human))
    counts, absent = saved.manifest.counts, saved.manifest.absent
    if absent:
        out.note(f"{_count(len(absent), 'blob')} lost before, and not in it: {', '.join(absent)}", "yellow")
    blobs = _count(len(saved.manifest.blobs), "blob")
    told = f"{_count(counts['version'], 'version')} of {_count(counts['adapter'], 'adapter')} in {blobs}"
    value = {"file": str(file), "size": saved.size, "created_at": saved.manifest.created_at, "counts": counts, "absent": absent}
    out.done(f"saved {told} to {file} ({size(saved.size)})", value, "file")


def restore(
    what: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A removed adapter's name, or a backup file.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Keep the registry that is there aside, and put the backup in its place.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring back a removed adapter, or a whole registry from a backup.

    Example: adreg restore /mnt/safe/adreg-monday.tar
    """
    out = Output(json, quiet)
    if is_folder(what) or Path(what).is_file() or what.endswith(".tar"):
        _restore_backup(Path(what).expanduser(), replace, out)
        return
    registry().adapters.restore(what)
    out.done(f"restored {what}", {"name": what}, "name")


def _restore_backup(file: Path, replace: bool, out: Output) -> None:
    from adreg.registry.upkeep.restore import restore_backup

    restored = restore_backup(file, Settings.from_environment().home, replace, progress(out.human))
    if restored.aside:
        out.note(f"the registry that was there is kept as {restored.aside}")
    value = {
        "home": str(restored.home),
        "blobs": len(restored.manifest.blobs),
        "created_at": restored.manifest.created_at,
        "aside": str(restored.aside) if restored.aside else None,
    }
    out.done(f"restored {restored.home} as of {restored.manifest.created_at}", value, "home")


def doctor(json: Json = False, quiet: Quiet = False) -> None:
    """Say what is unusual about this machine and the registry, and what to do about it. Exit code 1 when something is bad."""
    from adreg.registry.upkeep.doctor import doctor as look

    out, checks = Output(json, quiet), look(Settings.from_environment())
    marks = {"ok": "ok", "warn": "warn", "bad": "BAD"}
    columns = {
        "": lambda row: marks[row["state"]],
        "CHECK": lambda row: row["name"],
        "FOUND": lambda row: row["text"] + (f" → {row['advice']}" if row["advice"] and row["state"] != "ok" else ""),
    }
    rows = [vars(check) for check in checks]
    out.table(rows if json or not quiet else [row for row in rows if row["state"] != "ok"], columns, "name", "")
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(UNFIT)
