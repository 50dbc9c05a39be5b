"""Check a registry: the database, its rows, its blobs. Reports whatever it finds and changes nothing but its own mark.

Levels as in git and restic: structure always, and on request the bytes of all or some blobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adreg.errors import StorageError
from adreg.progress import SILENT, Progress
from adreg.registry.registry import Registry
from adreg.registry.store.database import database_path, now, transaction, unchanging
from adreg.registry.store.leases import dead_leases
from adreg.registry.store.sqlite import Database
from adreg.registry.upkeep.blobcheck import (
    KIND,
    check_bytes,
    check_files,
    check_formats,
    note_strays,
    read_rows,
    rows_from_files,
)
from adreg.registry.upkeep.databasecheck import check_file, check_schema, check_search
from adreg.registry.upkeep.findings import Findings, FsckReport
from adreg.registry.upkeep.reading import ReadData, StoredBlob
from adreg.registry.upkeep.recordcheck import check_records

MARK = "fsck"


def fsck(registry: Registry, read: ReadData | None = None, progress: Progress = SILENT) -> FsckReport:
    """Check everything but the blobs' bytes, and those that `read` chooses. However damaged the registry is, it reports.

    Raises `ConflictError` for a database that another process holds, or that a newer adreg wrote.
    """
    found = Findings()
    db = _open(registry, found)
    rows = _check_rows(db, found) if db else rows_from_files(registry.settings.home)
    sound = check_files(registry.blobs, rows, found, progress)
    if db:
        with found.guarded("database", "version_file"):
            check_formats(db, registry.blobs, sound, found)
    damaged = {problem.subject for problem in found.problems if problem.kind == KIND}
    doubtful = [row for row in sound if row.state != "ok"]  # set aside once, and there again
    chosen = [row for row in {*doubtful, *(read.choose(sound) if read else ())} if row.digest not in damaged]
    verified = check_bytes(registry.blobs, sorted(chosen, key=lambda row: row.digest), found, progress)
    note_strays(registry.settings.home, rows, found)
    if not db:
        return found.report()
    return _settled(db, found, verified)


def _open(registry: Registry, found: Findings) -> Database | None:
    """The database, or None when there is none or its rows cannot be trusted."""
    path = registry.settings.database
    if not path.exists() and not registry.blobs.any():
        found.note(f"there is no registry in {path.parent} yet")
        return None
    if not path.exists() or path.stat().st_size == 0:
        if registry.blobs.any():
            found.problem("database", path.name, "is gone or empty, though blobs are here")
        return None
    if not check_file(path, found):
        return None
    db = None
    with found.guarded("database", path.name):
        db = registry.db
    return db  # noqa: RET504  it stays None when the guard caught something


def _check_rows(db: Database, found: Findings) -> list[StoredBlob]:
    """Check the tables and every row at one moment: the rows of blobs."""
    rows: list[StoredBlob] = []
    with found.guarded("database", database_path(db).name), unchanging(db):
        check_schema(db, found)
        check_search(db, found)
        check_records(db, found)
        rows = read_rows(db)
        dead = dead_leases(db)
        if dead:
            found.note(f"{len(dead)} leases of processes that are gone")
    return rows


def _settled(db: Database, found: Findings, verified: Sequence[str]) -> FsckReport:
    """The report, without problems of blobs that a clean-up took meanwhile; a sound database is marked and sealed."""
    if found.problems:
        with found.guarded("database", "blob"):
            here = {row.digest for row in read_rows(db)}
            found.problems = [problem for problem in found.problems if problem.kind != KIND or problem.subject in here]
    report = found.report()
    if all(problem.kind == KIND for problem in report.problems):
        try:
            mark(db, clean=report.clean, verified=verified)
        except StorageError as error:
            return replace(report, notes=(*report.notes, f"not recorded: {error.why}"))
    return report


def mark(db: Database, clean: bool, verified: Sequence[str]) -> None:
    """Remember which blobs were read, and when the registry was last found clean."""
    with transaction(db):
        moment = now()
        rows = [(moment, digest) for digest in verified]
        db.conn.executemany("update blob set verified_at = ?, state = 'ok' where digest = ?", rows)
        if clean:
            db.execute("insert or replace into meta values (?, ?)", [MARK, moment])
