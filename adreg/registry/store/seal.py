"""The seal: a digest of the whole database as adreg last left it, beside it on disk. It shows every flipped byte.

A change removes the seal first and writes a new one when it is committed, both under the write lock: a seal that is
there must fit, and one that is missing only tells of a change that was interrupted.
"""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import suppress
from enum import Enum
from pathlib import Path

from blake3 import blake3

from adreg.registry.store.sqlite import Database


class Seal(Enum):
    """What the seal says of the database."""

    INTACT = "intact"
    MISSING = "missing"
    BROKEN = "broken"


def seal_path(database: Path) -> Path:
    return database.with_name(database.name + ".seal")


def check_seal(db: Database, database: Path) -> Seal:
    """Compare the database with its seal. The caller holds the write lock, or nobody else writes."""
    try:
        sealed = seal_path(database).read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return Seal.MISSING
    return Seal.INTACT if sealed == _digest(db) else Seal.BROKEN


def break_seal(database: Path) -> None:
    """Remove the seal, before a change."""
    seal_path(database).unlink(missing_ok=True)


def write_seal(db: Database, database: Path) -> None:
    """Seal what is committed now, under the write lock; in WAL mode only when the log could be emptied into the file.

    A disk that is full or a lock that is not to be had leaves the database unsealed, which is no damage.
    """
    with suppress(OSError, sqlite3.OperationalError):
        db.execute("pragma wal_checkpoint(truncate)")
        db.execute("begin immediate")
        try:
            log = database.with_name(database.name + "-wal")
            if not log.exists() or log.stat().st_size == 0:
                _publish(seal_path(database), _digest(db))
        finally:
            db.execute("rollback")


def _digest(db: Database) -> str:
    return "b3:" + blake3(db.conn.serialize()).hexdigest()


def _publish(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(text + "\n", encoding="ascii")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
