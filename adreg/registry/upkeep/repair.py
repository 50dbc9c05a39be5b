"""Mend what a check found: damaged blobs go to quarantine and are fetched again. Nothing that could be evidence is deleted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from adreg.errors import AdregError, IntegrityError
from adreg.formats.atomic import sync
from adreg.formats.digests import file_sha256
from adreg.progress import SILENT, Progress
from adreg.registry.names import index_adapter
from adreg.registry.registry import Registry
from adreg.registry.store.database import transaction
from adreg.registry.store.leases import dead_leases, oldest_lease
from adreg.registry.store.seal import break_seal, seal_path, write_seal
from adreg.registry.upkeep.blobcheck import KIND, read_rows, wrong_file
from adreg.registry.upkeep.findings import FsckReport, Problem
from adreg.registry.upkeep.layout import DAY, leftovers
from adreg.registry.upkeep.reading import StoredBlob

Refetch = Callable[[str, int, Path], bool]
"""Writes the blob of a digest and a size to a path; False where it is not to be had. The caller checks what was written."""

HOPELESS = ("database", "schema")


def repair(registry: Registry, report: FsckReport, refetch: Refetch, progress: Progress = SILENT) -> FsckReport:
    """Mend what `report` names as far as that is safe; the report with what was repaired, and how.

    A database whose structure is damaged is left alone: only a backup can replace it.
    """
    if report.of(*HOPELESS):
        return replace(report, notes=(*report.notes, "the database cannot be repaired: adreg restore BACKUP replaces it"))
    if not registry.settings.database.exists():
        return report
    mend = _Repair(registry, refetch)
    with progress.task("repairing", len(report.problems)) as task:
        done = []
        for problem in sorted(report.problems, key=lambda problem: problem.kind != "seal"):
            done.append(mend.problem(problem, report))
            task.advance()
    if report.of("seal") and not all(problem.repaired for problem in done if problem.kind == "seal"):
        return replace(report, problems=tuple(done))
    return replace(report, problems=tuple(done), notes=(*report.notes, *mend.tidy()))


@dataclass(frozen=True)
class _Repair:
    registry: Registry
    refetch: Refetch

    def problem(self, problem: Problem, report: FsckReport) -> Problem:
        """`problem` as it is afterwards."""
        match problem.kind:
            case "seal":
                return self._seal(problem, report)
            case "search":
                return self._search(problem)
            case "blob":
                return self._blob(problem)
            case _:
                return problem

    def _seal(self, problem: Problem, report: FsckReport) -> Problem:
        """Believe a database that changed outside adreg, when its structure and every row are sound."""
        if any(other.kind not in ("seal", KIND, "search") for other in report.problems):
            return replace(problem, message=f"{problem.message}; not sealed again, for other problems are in it")
        database = self.registry.settings.database
        break_seal(database)
        write_seal(self.registry.db, database)
        told = "sealed again as it is: its structure is sound, but what was changed is not known"
        return replace(problem, message=f"{problem.message}; {told}", repaired=seal_path(database).exists())

    def _search(self, problem: Problem) -> Problem:
        db = self.registry.db
        try:
            with transaction(db):
                for (id_,) in db.execute("select id from adapter").fetchall():
                    index_adapter(db, id_)
                db.execute("insert into search(search) values ('rebuild')")
        except AdregError:
            return problem
        return replace(problem, message=f"{problem.message}; indexed again", repaired=True)

    def _blob(self, problem: Problem) -> Problem:
        row = next((row for row in read_rows(self.registry.db) if row.digest == problem.subject), None)
        if row is None:
            return replace(problem, message=f"{problem.message}; removed meanwhile", repaired=True)
        if not self._wrong(row):
            return problem
        kept = self._quarantine(row)
        source = next((name for name, fetch in self._sources() if self._fetched(row, fetch)), None)
        aside = f"; kept as {kept.relative_to(self.registry.settings.home)}" if kept else ""
        if source is None:
            users = ", ".join(self._users(row.digest))
            return replace(problem, message=f"{problem.message}{aside}; no good copy was found ({users} need it)")
        return replace(problem, message=f"{problem.message}{aside}; fetched again from {source}", repaired=True)

    def _quarantine(self, row: StoredBlob) -> Path | None:
        """Move the file of a blob aside, and say so in its row: where it is now."""
        path = self.registry.blobs.path(row.digest)
        target = self.registry.settings.home / "quarantine" / f"{path.name}.{time.time_ns()}"
        target.parent.mkdir(parents=True, exist_ok=True)
        with transaction(self.registry.db):
            there = path.is_symlink() or path.exists()
            if there:
                path.rename(target)
            state = "quarantined" if there or row.state == "quarantined" else "missing"
            self.registry.db.execute("update blob set state = ? where digest = ?", [state, row.digest])
        return target if there else None

    def _wrong(self, row: StoredBlob) -> bool:
        if wrong_file(self.registry.blobs, row):
            return True
        try:
            self.registry.blobs.check(row.digest)
        except (IntegrityError, OSError):
            return True
        return False

    def _sources(self) -> Iterator[tuple[str, Refetch]]:
        yield "trash/ or quarantine/", self._from_here
        yield "a remote", self.refetch

    def _from_here(self, digest: str, size: int, target: Path) -> bool:
        value, home = digest.removeprefix("sha256:"), self.registry.settings.home
        for path in (*home.glob(f"trash/*/{value}*"), *home.glob(f"quarantine/{value}*")):
            if path.is_file() and not path.is_symlink() and _holds(path, digest, size):
                shutil.copyfile(path, target)
                return True
        return False

    def _fetched(self, row: StoredBlob, fetch: Refetch) -> bool:
        """Whether `fetch` gave the right bytes; then they are in their place and their row is well again."""
        blobs, db = self.registry.blobs, self.registry.db
        with blobs.temporary() as temporary:
            if not fetch(row.digest, row.size, temporary) or not _holds(temporary, row.digest, row.size):
                return False
            sync(temporary)
            blobs.publish(temporary, row.digest)
        blobs.settle([row.digest])
        with transaction(db):
            db.execute("update blob set state = 'ok' where digest = ?", [row.digest])
        return True

    def _users(self, digest: str) -> list[str]:
        query = (
            "select adapter.name || ':' || number from version_file join version on version.id = version_id "
            "join adapter on adapter.id = adapter_id where version_file.digest = :digest "
            "union select 'base ' || name from base where sketch = :digest"
        )
        return [name for (name,) in self.registry.db.execute(query, {"digest": digest}).fetchall()]

    def tidy(self) -> list[str]:
        """Remove old half-written files and dead leases: what was done, in words."""
        db, told = self.registry.db, []
        with transaction(db):
            cutoff = min(time.time() - DAY, (oldest_lease(db) or time.time()) - 2)
            dead = dead_leases(db)
            db.conn.executemany("delete from lease where id = ?", [(id_,) for id_ in dead])
            stale = [file for file in leftovers(self.registry.settings.home) if file.mtime < cutoff]
            for file in stale:
                file.path.unlink(missing_ok=True)
        if dead:
            told.append(f"dropped {len(dead)} dead leases")
        if stale:
            told.append(f"removed {len(stale)} old half-written files")
        return told


def _holds(path: Path, digest: str, size: int) -> bool:
    """Whether the file at `path` is the blob."""
    with suppress(OSError):
        return path.stat().st_size == size and f"sha256:{file_sha256(path)}" == digest
    return False
