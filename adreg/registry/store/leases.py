"""Leases: while one is held, no clean-up takes a blob stored since. They expire, and die with their owner."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass

from adreg.registry.store.database import database_path, sqlite_errors, transaction
from adreg.registry.store.sqlite import Database

SECONDS = 24 * 3600.0


@dataclass
class Lease:
    """Held for the time of a `with` block; guards what is stored from `since` on (seconds since 1970; or the block's start).

    `release` it in the transaction that makes the blobs reachable.
    """

    db: Database
    purpose: str
    since: float | None = None
    id: int | None = None

    def __enter__(self) -> Lease:
        now = time.time()
        row = [_owner(), self.purpose, now if self.since is None else self.since, now + SECONDS]
        insert = "insert into lease (owner, purpose, taken_at, expires_at) values (?, ?, ?, ?)"
        try:
            with transaction(self.db):
                self.id = self.db.execute(insert, row).lastrowid
        except BaseException:  # a signal may have come when the row was committed
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_there():
            with transaction(self.db):
                self.release()

    def release(self) -> None:
        self.db.execute("delete from lease where id = ?", [self.id])

    def _is_there(self) -> bool:
        """Whether the row is: a release that was rolled back was none."""
        with sqlite_errors(database_path(self.db)):
            return self.db.execute("select 1 from lease where id = ?", [self.id]).fetchone() is not None


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


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


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
