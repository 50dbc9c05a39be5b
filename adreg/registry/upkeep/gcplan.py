"""What a clean-up would remove. Only a database that proves sound may condemn anything: what is missing is never a reason."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adreg.errors import IntegrityError
from adreg.registry.registry import Registry
from adreg.registry.store.database import unchanging
from adreg.registry.store.leases import oldest_lease
from adreg.registry.store.sqlite import Database
from adreg.registry.upkeep.databasecheck import check_file, check_schema
from adreg.registry.upkeep.findings import Findings
from adreg.registry.upkeep.layout import DAY, Stored, leftovers, stored_files, trashed
from adreg.registry.upkeep.recordcheck import check_records

# the clock that dates files may lag a little behind the one that leases are taken by
MARGIN = 2.0
EXPIRED = "deleted_at <= ? and purged_at is null"
NEEDED = (
    "select version_file.digest from version_file join version on version.id = version_id "
    f"join adapter on adapter.id = adapter_id where not (deleted_at is not null and {EXPIRED}) "
    "union select sketch from base where sketch is not null"
)


@dataclass(frozen=True)
class GcPolicy:
    """How old things must be, in seconds: `grace` what nobody needs, `purge_after` an adapter that was removed."""

    grace: float = DAY
    purge_after: float = 30 * DAY
    empty_trash: bool = False


@dataclass(frozen=True)
class Expired:
    """An adapter that was removed so long ago that its files go; its name and numbers stay taken."""

    id: int
    name: str
    deleted_at: str
    versions: int


@dataclass(frozen=True)
class Doomed:
    """A blob that nothing needs; `size` is 0 where only its row is left."""

    digest: str
    size: int


@dataclass(frozen=True)
class GcPlan:
    """What `run_gc` would do. Blobs stored since `cutoff` (seconds since 1970) stay, and `waiting` of those nobody needs."""

    policy: GcPolicy
    cutoff: float
    expired: tuple[Expired, ...] = ()
    blobs: tuple[Doomed, ...] = ()
    leftovers: tuple[Stored, ...] = ()
    trash: tuple[Stored, ...] = ()
    odd: tuple[Path, ...] = ()
    waiting: int = 0

    @property
    def size(self) -> int:
        """The bytes that all this takes now."""
        return sum(blob.size for blob in self.blobs) + sum(file.size for file in (*self.leftovers, *self.trash))

    def as_json(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "expired": [vars(adapter) for adapter in self.expired],
            "blobs": [vars(blob) for blob in self.blobs],
            "leftovers": [str(file.path) for file in self.leftovers],
            "trash": [str(file.path) for file in self.trash],
            "odd": [str(path) for path in self.odd],
            "waiting": self.waiting,
        }


def plan_gc(registry: Registry, policy: GcPolicy | None = None, now: float | None = None) -> GcPlan:
    """Decide what can go. Raises `IntegrityError` when the database or any of its rows is damaged, changed or gone."""
    policy, now = policy or GcPolicy(), time.time() if now is None else now
    home = registry.settings.home
    if not registry.settings.database.exists() and not registry.blobs.any():
        return GcPlan(policy, now - policy.grace)
    _require_sound(registry)
    db = registry.db
    files = stored_files(home)
    with unchanging(db):
        cutoff = protected_since(db, now - policy.grace)
        moment = datetime.fromtimestamp(now - policy.purge_after, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        expired = tuple(Expired(**row) for row in db.query(_expired_query(), [moment]))
        needed = {digest for (digest,) in db.execute(NEEDED, [moment]).fetchall()}
        known = {digest for (digest,) in db.execute("select digest from blob").fetchall()}
    if not known and any(file.mtime < _made_at(db) for file in files.blobs.values()):
        raise IntegrityError(f"{registry.settings.database} knows none of {len(files.blobs)} blobs: nothing is removed")
    old = {digest: file for digest, file in files.blobs.items() if digest not in needed and file.mtime < cutoff}
    return GcPlan(
        policy=policy,
        cutoff=cutoff,
        expired=expired,
        blobs=tuple(_doomed(old, known - needed - files.blobs.keys())),
        leftovers=tuple(file for file in leftovers(home) if file.mtime < cutoff),
        trash=tuple(_old_trash(home, policy, now)),
        odd=files.odd,
        waiting=len(files.blobs.keys() - needed) - len(old),
    )


def protected_since(db: Database, moment: float) -> float:
    """`moment`, or when the oldest living lease was taken if that is earlier."""
    leased = oldest_lease(db)
    return moment if leased is None else min(moment, leased - MARGIN)


def _require_sound(registry: Registry) -> None:
    found = Findings()
    if check_file(registry.settings.database, found) and not found.problems:
        with unchanging(registry.db):
            check_schema(registry.db, found)
            check_records(registry.db, found)
    if found.problems:
        first = found.problems[0]
        raise IntegrityError(f"nothing is removed from a damaged registry (see adreg fsck): {first.subject} {first.message}")


def _made_at(db: Database) -> float:
    """When the database was made (seconds since 1970): a blob that is older was stored by another one."""
    return min(datetime.fromisoformat(at).timestamp() for (at,) in db.execute("select applied_at from _sqlite_migrations"))


def _expired_query() -> str:
    count = "(select count(*) from version where adapter_id = adapter.id)"
    return f"select id, name, deleted_at, {count} as versions from adapter where {EXPIRED} order by name"


def _doomed(files: dict[str, Stored], rows: Collection[str]) -> list[Doomed]:
    with_files = [Doomed(digest, file.size) for digest, file in sorted(files.items())]
    return with_files + [Doomed(digest, 0) for digest in sorted(rows)]


def _old_trash(home: Path, policy: GcPolicy, now: float) -> list[Stored]:
    groups = trashed(home).items()
    return [file for moment, group in groups if policy.empty_trash or moment <= now - policy.grace for file in group]
