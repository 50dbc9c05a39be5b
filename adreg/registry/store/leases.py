"""Leases: while one is held, no clean-up takes a blob stored since. They expire, and die with their owner."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adreg.registry.store.database import transaction
from adreg.registry.store.sqlite import Database

SECONDS = 24 * 3600.0


@dataclass
class Lease:
    """A held lease. `release` it in the transaction that makes the blobs reachable."""

    db: Database
    id: int
    held: bool = True

    def release(self) -> None:
        self.db.execute("delete from lease where id = ?", [self.id])
        self.held = False


@contextmanager
def lease(db: Database, purpose: str, since: float | None = None) -> Iterator[Lease]:
    """Hold a lease for the time of a `with` block. It guards what is stored from `since` on (seconds since 1970; or now)."""
    with transaction(db):
        now = time.time()
        row = [f"{socket.gethostname()}:{os.getpid()}", purpose, now if since is None else since, now + SECONDS]
        cursor = db.execute("insert into lease (owner, purpose, taken_at, expires_at) values (?, ?, ?, ?)", row)
    taken = Lease(db, cursor.lastrowid or 0)
    try:
        yield taken
    finally:
        if taken.held:
            with transaction(db):
                taken.release()


def oldest_lease(db: Database) -> float | None:
    """When the oldest lease that is alive was taken (seconds since 1970), or None."""
    alive = [taken for owner, taken, expires in _rows(db) if expires > time.time() and _lives(owner)]
    return min(alive, default=None)


def dead_leases(db: Database) -> list[int]:
    """The ids of leases that expired or whose process is gone."""
    query = "select id, owner, expires_at from lease"
    return [id_ for id_, owner, expires in db.execute(query) if expires <= time.time() or not _lives(owner)]


def _rows(db: Database) -> list[tuple[str, float, float]]:
    return db.execute("select owner, taken_at, expires_at from lease").fetchall()


def _lives(owner: str) -> bool:
    """Whether the owner's process may still run; one on another machine counts as running."""
    host, _, process = owner.rpartition(":")
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        return True
    return True
