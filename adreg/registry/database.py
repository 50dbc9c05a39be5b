"""One SQLite file, opened with every safeguard on. Knows transactions, not what the tables mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from adreg.errors import ConflictError, IntegrityError, StorageError
from adreg.formats.atomic import disk_errors
from adreg.registry.schema import APPLICATION_ID, migrations
from adreg.registry.sqlite import Database

BUSY_SECONDS = 10
PRAGMAS = ("foreign_keys=on", "trusted_schema=off", "cell_size_check=on", "synchronous=full")
FIXED_WAL = (3, 51, 3)
FULL, READ_ONLY, CORRUPT = ("full",), ("readonly", "unable to open"), ("malformed", "not a database", "corrupt")


def open_database(path: Path) -> Database:
    """Open (or create) the registry's database and bring its schema up to date."""
    with disk_errors(path), sqlite_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        for pragma in PRAGMAS:
            connection.execute(f"pragma {pragma}")
        db = Database(connection, execute_plugins=False)
        if migrations.pending(db):
            _create_or_migrate(path, db)
        _check_owner(path, db)
        return db


def _create_or_migrate(path: Path, db: Database) -> None:
    # the write-ahead log corrupted databases before 3.51.3 (sqlite.org/wal.html#walresetbug)
    if sqlite3.sqlite_version_info >= FIXED_WAL:
        db.execute("pragma journal_mode=wal")
    with transaction(db, path):
        if db.execute("select count(*) from sqlite_master").fetchone()[0] == 0:
            db.execute(f"pragma application_id={APPLICATION_ID}")
        _check_owner(path, db)
        migrations.apply(db)


def _check_owner(path: Path, db: Database) -> None:
    if db.execute("pragma application_id").fetchone()[0] != APPLICATION_ID:
        raise IntegrityError(f"{path} is a SQLite database, but not adreg's")
    known = {migration.name for migration in migrations._migrations}
    newer = [migration.name for migration in migrations.applied(db) if migration.name not in known]
    if newer:
        raise ConflictError(f"{path} was written by a newer adreg ({newer[-1]})", "upgrade adreg with pip")


@contextmanager
def transaction(db: Database, path: Path | None = None) -> Iterator[None]:
    """One change: everything inside is one `BEGIN IMMEDIATE`, committed whole or rolled back."""
    with sqlite_errors(path):
        db.execute("begin immediate")
        try:
            yield
            db.execute("commit")
        except BaseException:
            if db.conn.in_transaction:
                db.execute("rollback")
            raise


@contextmanager
def sqlite_errors(path: Path | None) -> Iterator[None]:
    """Turn SQLite's errors about the disk, locks and damage into adreg's."""
    where = path or Path("adreg.db")
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if any(word in text for word in FULL + READ_ONLY) or "disk I/O" in text:
            raise StorageError(where, text) from error
        if any(word in text for word in CORRUPT):
            raise IntegrityError(f"{where} is damaged: {text}") from error
        if "locked" in text:
            raise ConflictError(f"{where} is locked by another process", "try again when it is done") from error
        raise


def now() -> str:
    """The present moment, UTC, to the second, in ISO form."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
