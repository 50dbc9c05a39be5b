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

from adreg.formats.atomic import sync
from adreg.registry.store.rawfile import own_descriptor, pieces
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
    sealed = _read(database)
    if sealed is None:
        return Seal.MISSING
    try:
        return Seal.INTACT if sealed == _digest(db, database) else Seal.BROKEN
    except (OSError, sqlite3.OperationalError):  # it cannot even be read whole
        return Seal.BROKEN


def sealed_here(db: Database, database: Path) -> bool:
    """Whether the seal is the one that this connection wrote: then nobody else has written since."""
    return db.sealed != "" and _read(database) == db.sealed


def break_seal(database: Path) -> None:
    """Remove the seal, before a change.

    That must be on disk before the change is: a rollback journal has its folder synced first, a write-ahead log has not.
    """
    seal_path(database).unlink(missing_ok=True)
    if database.with_name(database.name + "-wal").exists():
        sync(database.parent)


def write_seal(db: Database, database: Path) -> None:
    """Seal what is committed now, under the write lock; in WAL mode only when the log could be emptied into the file.

    A disk that is full or a lock that is not to be had leaves the database unsealed, which is no damage.
    """
    with suppress(OSError, sqlite3.OperationalError):
        db.execute("pragma wal_checkpoint(truncate)")
        try:
            db.execute("begin immediate")
            log = database.with_name(database.name + "-wal")
            if not log.exists() or log.stat().st_size == 0:
                db.sealed = _digest(db, database)
                _publish(seal_path(database), db.sealed)
        finally:
            db.conn.rollback()


def _read(database: Path) -> str | None:
    try:
        return seal_path(database).read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        return None


def _digest(db: Database, database: Path) -> str:
    """Over the pages as they lie in the file; the caller holds a lock. Pages that a log holds, SQLite copies into memory."""
    log = database.with_name(database.name + "-wal")
    descriptor = None if log.exists() and log.stat().st_size else own_descriptor(database)
    hasher = blake3()
    if descriptor is None:
        hasher.update(db.conn.serialize())
    else:
        (count,), (size,) = db.execute("pragma page_count").fetchone(), db.execute("pragma page_size").fetchone()
        for piece in pieces(descriptor, count * size):
            hasher.update(piece)
    return f"b3:{hasher.hexdigest()}\n"


def _publish(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(text, encoding="ascii")
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
