"""Bring a backup back: checked whole beside its place, then renamed into it. The archive is believed in nothing."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from adreg.errors import ConflictError, IntegrityError, NotFoundError, StorageError
from adreg.formats.atomic import atomic_folder, disk_errors, sync
from adreg.progress import SILENT, Progress
from adreg.registry.registry import Registry
from adreg.registry.store.database import connect
from adreg.registry.store.filesystem import exchange
from adreg.registry.store.leases import oldest_lease
from adreg.registry.store.sqlite import Database
from adreg.registry.upkeep import archive
from adreg.registry.upkeep.fsck import fsck
from adreg.settings import Settings


@dataclass(frozen=True)
class Restored:
    """A registry that was brought back to `home`; `aside` is where the one that was there is kept."""

    home: Path
    manifest: archive.BackupManifest
    aside: Path | None


def restore_backup(file: Path, home: Path, replace: bool = False, progress: Progress = SILENT) -> Restored:
    """Make `home` what it was when the backup `file` was made.

    Raises `FormatError` for a file that is no whole backup, `IntegrityError` when what it holds is damaged, and
    `ConflictError` when `home` is in use and not to be replaced. Then nothing changed.
    """
    if not file.is_file():
        raise NotFoundError("backup", str(file))
    taken = home.is_dir() and any(home.iterdir())
    if taken and not replace:
        raise ConflictError(f"{home} is not empty", "--replace keeps it aside, or point ADREG_HOME at another folder")
    if taken:
        _refuse_while_used(home)
    manifest = _read_manifest(file)
    _require_space(home, manifest.size)
    fresh = home.with_name(f".{home.name}.restored-{time.time_ns()}") if taken else home
    with atomic_folder(fresh) as partial:
        _unpack(file, manifest, partial, progress)
        _require_sound(partial, manifest, progress)
    return Restored(home, manifest, _swap(fresh, home) if taken else None)


def _read_manifest(file: Path) -> archive.BackupManifest:
    with file.open("rb") as opened:
        return archive.read_manifest(opened, file)


def _unpack(file: Path, manifest: archive.BackupManifest, folder: Path, progress: Progress) -> None:
    """Write every file of the archive below `folder`, which is empty; the names come from the digests, not from the archive."""
    with file.open("rb") as opened, progress.task("restore", manifest.size, "B") as task:
        if archive.read_manifest(opened, file) != manifest:
            raise IntegrityError(f"{file} changed while it was being read")
        for name, entry in manifest.members:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as written:
                archive.read_member(opened, file, name, entry, written)
            target.chmod(0o600 if name == archive.DATABASE else 0o444)
            task.advance(entry.size)
        archive.read_end(opened, file)


def _require_space(home: Path, size: int) -> None:
    where = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(where).free
    if free < size:
        raise StorageError(home, f"the backup needs {size:,} bytes, and {free:,} are free")


def _require_sound(folder: Path, manifest: archive.BackupManifest, progress: Progress) -> None:
    """The new registry must be clean, but for blobs that were lost before the backup was made."""
    registry = Registry(Settings(folder))
    try:
        report = fsck(registry, None, progress)
    finally:
        if "db" in vars(registry):
            registry.db.conn.close()
    wrong = [problem for problem in report.problems if problem.subject not in manifest.absent]
    if wrong:
        raise IntegrityError(f"the backup holds a damaged registry: {wrong[0].subject} {wrong[0].message}")


def _refuse_while_used(home: Path) -> None:
    """Raise `ConflictError` while a push or a backup is under way in `home`; one that is damaged cannot tell."""
    database = Settings(home).database
    if not database.exists():
        return
    try:
        with closing(connect(database).conn) as connection:
            used = oldest_lease(Database(connection))
    except sqlite3.DatabaseError:
        return
    if used is not None:
        raise ConflictError(f"{home} is in use: a push or a backup is under way", "try again when it is done")


def _swap(fresh: Path, home: Path) -> Path:
    """Put `fresh` in the place of `home`, which is kept aside: where. In one step where the system can."""
    aside = home.with_name(f"{home.name}.before-restore-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
    try:
        if exchange(fresh, home):
            _rename_or_undo(fresh, aside, lambda: exchange(fresh, home))
        else:
            home.rename(aside)
            _rename_or_undo(fresh, home, lambda: aside.rename(home))
    except OSError as error:
        shutil.rmtree(fresh)
        raise StorageError(home, f"it cannot be moved aside ({error.strerror})") from error
    with disk_errors(home):
        sync(home.parent)
    return aside


def _rename_or_undo(source: Path, target: Path, undo: Callable[[], object]) -> None:
    try:
        source.rename(target)
    except OSError:
        undo()
        raise
