"""Carry out a clean-up beside whatever else runs: each thing is looked at again, under the lock, before it goes.

Kill it anywhere: a blob without its row, or a row that nothing needs without its blob, is no damage.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from adreg.formats.atomic import disk_errors
from adreg.progress import SILENT, Progress
from adreg.registry.names import one, record_event
from adreg.registry.registry import Registry
from adreg.registry.store.database import now, transaction
from adreg.registry.upkeep.gcplan import Doomed, Expired, GcPlan, protected_since
from adreg.registry.upkeep.layout import Stored, trashed

BATCH = 100


@dataclass(frozen=True)
class GcResult:
    """What a clean-up did: adapters purged, blobs moved to `trash/`, files unlinked, and the bytes of both."""

    purged: int = 0
    trashed: int = 0
    trashed_size: int = 0
    unlinked: int = 0
    unlinked_size: int = 0


def run_gc(registry: Registry, plan: GcPlan, progress: Progress = SILENT) -> GcResult:
    """Carry `plan` out. What came into use since it was made stays."""
    with disk_errors(registry.settings.home):
        return _carry_out(_Sweep(registry, plan), plan, progress)


def _carry_out(sweep: _Sweep, plan: GcPlan, progress: Progress) -> GcResult:
    purged = sum(sweep.purge(adapter) for adapter in plan.expired)
    moved: list[Doomed] = []
    with progress.task("clean-up", len(plan.blobs)) as task:
        for start in range(0, len(plan.blobs), BATCH):
            batch = plan.blobs[start : start + BATCH]
            moved += sweep.move(batch)
            task.advance(len(batch))
    gone = sweep.unlink_leftovers() + sweep.empty_trash()
    return GcResult(purged, len(moved), sum(blob.size for blob in moved), len(gone), sum(file.size for file in gone))


@dataclass(frozen=True)
class _Sweep:
    registry: Registry
    plan: GcPlan

    def purge(self, adapter: Expired) -> bool:
        """Let go of the files of a removed adapter, unless it was restored meanwhile."""
        db = self.registry.db
        with transaction(db):
            same = "select 1 from adapter where id = ? and deleted_at = ? and purged_at is null"
            if one(db, same, [adapter.id, adapter.deleted_at]) is None:
                return False
            versions = "version_id in (select id from version where adapter_id = ?)"
            db.execute(f"delete from version_file where {versions}", [adapter.id])
            db.execute("update adapter set purged_at = ? where id = ?", [now(), adapter.id])
            record_event(db, adapter.id, "purged", versions=adapter.versions)
        return True

    def move(self, batch: Sequence[Doomed]) -> list[Doomed]:
        """Move the blobs of `batch` that still may go to `trash/`, and drop their rows, in one transaction."""
        db, moved = self.registry.db, dict[Path, Path]()
        gone = []
        try:
            with transaction(db):
                cutoff = protected_since(db, self.plan.cutoff)
                for blob in batch:
                    if self._may_go(blob.digest, cutoff):
                        moved.update(self._to_trash(blob.digest))
                        db.execute("delete from blob where digest = ?", [blob.digest])
                        gone.append(blob)
        except BaseException:
            for source, target in moved.items():
                with suppress(OSError):
                    target.rename(source)
            raise
        return gone

    def _may_go(self, digest: str, cutoff: float) -> bool:
        used = "select 1 from version_file where digest = :digest union all select 1 from base where sketch = :digest"
        if self.registry.db.execute(used, {"digest": digest}).fetchone():
            return False
        with suppress(FileNotFoundError):
            return self.registry.blobs.path(digest).lstat().st_mtime < cutoff
        return True

    def _to_trash(self, digest: str) -> dict[Path, Path]:
        source = self.registry.blobs.path(digest)
        target = self.registry.settings.home / "trash" / str(int(time.time())) / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.rename(target)
        except FileNotFoundError:
            return {}
        return {source: target}

    def unlink_leftovers(self) -> list[Stored]:
        """Remove half-written files that are old and that nobody writes on."""
        with transaction(self.registry.db):
            cutoff = protected_since(self.registry.db, self.plan.cutoff)
            return _unlink([file for file in map(_again, self.plan.leftovers) if file and file.mtime < cutoff])

    def empty_trash(self) -> list[Stored]:
        """Unlink what lies in `trash/` for long enough, or all of it."""
        home, every = self.registry.settings.home, self.plan.policy.empty_trash
        gone = _unlink([file for group in trashed(home).values() for file in group] if every else self.plan.trash)
        for moment in trashed(home):
            with suppress(OSError):  # it is not empty yet
                (home / "trash" / str(moment)).rmdir()
        return gone


def _unlink(files: Sequence[Stored]) -> list[Stored]:
    for file in files:
        file.path.unlink(missing_ok=True)
    return list(files)


def _again(file: Stored) -> Stored | None:
    with suppress(FileNotFoundError):
        return replace(file, mtime=file.path.lstat().st_mtime)
    return None
