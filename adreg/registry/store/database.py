"""One SQLite file, opened with every safeguard on. Knows transactions, not what the tables mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from adreg.errors import ConflictError, IntegrityError, StorageError
from adreg.formats.atomic import atomic_file, disk_errors
from adreg.registry.store.filesystem import is_local
from adreg.registry.store.schema import APPLICATION_ID, migrations
from adreg.registry.store.seal import Seal, break_seal, check_seal, write_seal
from adreg.registry.store.sqlite import Database

BUSY_SECONDS = 30
PRAGMAS = ("foreign_keys=on", "trusted_schema=off", "cell_size_check=on", "synchronous=full", "mmap_size=0")
FULL, READ_ONLY, CORRUPT = ("full",), ("readonly", "unable to open"), ("malformed", "not a database", "corrupt")


def open_database(path: Path) -> Database:
    """Open (or create) the registry's database and bring its schema up to date."""
    with disk_errors(path), sqlite_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        db = connect(path)
        _set_journal(path, db)
        if migrations.pending(db):
            _create_or_migrate(path, db)
        _check_owner(path, db)
        return db


def connect(path: Path) -> Database:
    """A connection with adreg's settings; no table is looked at yet."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    for pragma in PRAGMAS:
        connection.execute(f"pragma {pragma}")
    return Database(connection, execute_plugins=False)


def safe_journal(path: Path, version: tuple[int, ...] = sqlite3.sqlite_version_info) -> str:
    """`wal` where it is safe at `path`, else `delete`.

    The write-ahead log could corrupt databases before SQLite 3.51.3 (fixed in 3.50.7 and 3.44.6 too, see
    sqlite.org/wal.html#walresetbug), and its shared memory does not work across a network.
    """
    fixed = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    return "wal" if fixed and is_local(path) else "delete"


def _set_journal(path: Path, db: Database) -> None:
    wanted = safe_journal(path)
    if db.execute("pragma journal_mode").fetchone()[0] != wanted:
        break_seal(path)
        db.execute(f"pragma journal_mode={wanted}")
        write_seal(db, path)


def _create_or_migrate(path: Path, db: Database) -> None:
    with transaction(db):
        if db.execute("select count(*) from sqlite_master").fetchone()[0] == 0:
            db.execute(f"pragma application_id={APPLICATION_ID}")
        _check_owner(path, db)
        pending = migrations.pending(db)
        if pending and migrations.applied(db):
            _keep_copy(path, pending[0].name)
        migrations.apply(db)


def _keep_copy(path: Path, before: str) -> None:
    """A copy of the database as it was, `adreg.db.before-<migration>`; taken under the migration's own lock."""
    with atomic_file(path.with_name(f"{path.name}.before-{before}")) as partial:
        source, target = sqlite3.connect(path), sqlite3.connect(partial)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()


def _check_owner(path: Path, db: Database) -> None:
    if db.execute("pragma application_id").fetchone()[0] != APPLICATION_ID:
        raise IntegrityError(f"{path} is a SQLite database, but not adreg's")
    known = {migration.name for migration in migrations._migrations}
    newer = [migration.name for migration in migrations.applied(db) if migration.name not in known]
    if newer:
        raise ConflictError(f"{path} was written by a newer adreg ({newer[-1]})", "upgrade adreg with pip")


@contextmanager
def transaction(db: Database) -> Iterator[None]:
    """One change: everything inside is one `BEGIN IMMEDIATE`, committed whole or rolled back, then sealed.

    Raises `IntegrityError` before anything is changed when the database is not what the last change left.
    """
    path = database_path(db)
    with sqlite_errors(path):
        _begin(db, path)
        try:
            yield
            db.execute("commit")
        except BaseException:
            if db.conn.in_transaction:
                db.execute("rollback")
            raise
        finally:
            write_seal(db, path)


def _begin(db: Database, path: Path) -> None:
    db.execute("begin immediate")
    if check_seal(db, path) is Seal.BROKEN:
        db.execute("rollback")
        raise IntegrityError(f"{path} is not what adreg last wrote: it was damaged or changed from outside")
    with disk_errors(path):
        break_seal(path)


def database_path(db: Database) -> Path:
    """Where the main database of a connection lies."""
    return Path(db.execute("pragma database_list").fetchone()[2])


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about the disk, locks and damage into adreg's."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if any(word in text for word in FULL + READ_ONLY) or "disk I/O" in text:
            raise StorageError(path, text) from error
        if any(word in text for word in CORRUPT):
            raise IntegrityError(f"{path} is damaged: {text}") from error
        if "locked" in text:
            raise ConflictError(f"{path} is locked by another process", "try again when it is done") from error
        raise


def now() -> str:
    """The present moment, UTC, to the second, in ISO form."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
