"""Save a registry to one file: the database as it is at one moment, and every blob that it names then, each checked."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from adreg.errors import IntegrityError, NotFoundError
from adreg.formats.atomic import atomic_file
from adreg.formats.digests import file_sha256
from adreg.progress import SILENT, Progress
from adreg.registry.manifest import FileEntry
from adreg.registry.registry import Registry
from adreg.registry.store.database import connect, now, sqlite_errors, transaction
from adreg.registry.store.leases import Lease
from adreg.registry.store.schema import applied
from adreg.registry.upkeep import archive
from adreg.registry.upkeep.blobcheck import read_rows

MARK = "backup"
EVERYTHING = 0.0
COUNTED = ("base", "adapter", "version", "run", "artifact", "blob", "api_key")


@dataclass(frozen=True)
class Saved:
    """A backup that was written: where, its size in bytes, and what it holds."""

    path: Path
    size: int
    manifest: archive.BackupManifest


def backup(registry: Registry, file: Path, progress: Progress = SILENT) -> Saved:
    """Write a backup to `file`, which appears whole or not at all; others may write meanwhile.

    Raises `IntegrityError` for a blob that is damaged: `fsck --repair` first, so that no backup is silently incomplete.
    """
    if not registry.settings.database.exists():
        raise NotFoundError("registry", str(registry.settings.home))
    with Lease(registry.db, f"backup to {file.name}", since=EVERYTHING), atomic_file(file) as partial:
        snapshot = partial.with_name(f"{partial.name}.db")
        try:
            with sqlite_errors(snapshot):
                manifest = _snapshot(registry, snapshot)
            with partial.open("xb") as written:
                partial.chmod(0o600)
                _write(registry, manifest, snapshot, written, progress)
        finally:
            snapshot.unlink(missing_ok=True)
    with transaction(registry.db):
        registry.db.execute("insert or replace into meta values (?, ?)", [MARK, now()])
    return Saved(file, file.stat().st_size, manifest)


def _snapshot(registry: Registry, path: Path) -> archive.BackupManifest:
    """Copy the database to `path`, without the leases of today's processes; what it holds."""
    path.touch(0o600)
    target = connect(path)
    try:
        registry.db.conn.backup(target.conn)
        target.execute("pragma journal_mode=delete")  # one file holds it all, whatever journal the registry uses
        target.execute("pragma journal_mode=memory")
        target.execute("delete from lease")
        rows = read_rows(target)
        schema = applied(target)[-1]
        counts = {table: target.execute(f"select count(*) from {table}").fetchone()[0] for table in COUNTED}
    finally:
        target.conn.close()
    entry = FileEntry(f"sha256:{file_sha256(path)}", path.stat().st_size)
    kept = tuple(FileEntry(row.digest, row.size) for row in rows if row.used and row.state == "ok")
    absent = tuple(row.digest for row in rows if row.used and row.state != "ok")
    return archive.BackupManifest(now(), schema, counts, entry, kept, absent)


def _write(registry: Registry, manifest: archive.BackupManifest, snapshot: Path, written: BinaryIO, progress: Progress) -> None:
    text = manifest.dump()
    archive.write_member(written, archive.MANIFEST, len(text), BytesIO(text))
    with progress.task("backup", manifest.size, "B") as task:
        for name, entry in manifest.members:
            with snapshot.open("rb") if name == archive.DATABASE else registry.blobs.open(entry.digest) as source:
                found = archive.write_member(written, name, entry.size, source)
                if found != entry.digest or source.read(1):
                    raise IntegrityError(f"blob {entry.digest} is damaged: adreg fsck --read-data --repair comes first")
            task.advance(entry.size)
    archive.finish(written)
