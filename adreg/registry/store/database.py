"""One SQLite file, opened with every safeguard on. Knows transactions, not what the tables mean."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from adreg.errors import ConflictError, IntegrityError, StorageError
from adreg.formats.atomic import atomic_file, disk_errors
from adreg.registry.store.filesystem import is_local, is_read_only
from adreg.registry.store.schema import APPLICATION_ID, STEPS, applied, migrate, pending
from adreg.registry.store.seal import Seal, break_seal, check_seal, sealed_here, write_seal
from adreg.registry.store.sqlite import Database

BUSY_SECONDS = 30
CACHE = "cache_size=-65536"  # KiB, taken as they are needed: the default of 2 MB reads indexes of gigabytes again and again
PRAGMAS = ("foreign_keys=on", "trusted_schema=off", "cell_size_check=on", "synchronous=extra", "mmap_size=0", CACHE)
FULL, READ_ONLY, CORRUPT = ("full",), ("readonly", "unable to open"), ("malformed", "not a database", "corrupt")


def open_database(path: Path) -> Database:
    """Open (or create) the registry's database and bring its schema up to date."""
    with disk_errors(path), sqlite_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        db = _patiently(lambda: _in_journal(path, safe_journal(path)))
        if pending(db):
            _create_or_migrate(path, db)
        _check_owner(path, db)
        return db


def connect(path: Path) -> Database:
    """A connection with adreg's settings; no table is looked at yet."""
    connection = sqlite3.connect(_address(path), timeout=BUSY_SECONDS, isolation_level=None, uri=True)
    try:
        for pragma in PRAGMAS:
            connection.execute(f"pragma {pragma}")
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return Database(connection)


def _address(path: Path) -> str:
    """Where SQLite is to look; what lies whole on a read-only file system is read without a log's files beside it."""
    unfinished = any(path.with_name(path.name + end).exists() for end in ("-wal", "-journal"))
    mode = "?immutable=1" if path.exists() and not unfinished and is_read_only(path) else ""
    return path.absolute().as_uri() + mode


def safe_journal(path: Path, version: tuple[int, ...] = sqlite3.sqlite_version_info) -> str:
    """`wal` where it is safe at `path`, else `delete`: its shared memory does not work across a network."""
    return "wal" if wal_is_sound(version) and is_local(path) else "delete"


def wal_is_sound(version: tuple[int, ...]) -> bool:
    """Whether this SQLite is free of a bug of its write-ahead log that could corrupt databases.

    It was fixed in 3.51.3, and in 3.50.7 and 3.44.6 (sqlite.org/wal.html#walresetbug).
    """
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def _in_journal(path: Path, wanted: str) -> Database:
    """A connection whose journal is `wanted`; a database that is foreign, or that can only be read, stays as it is."""
    db = connect(path)
    if _journal(db) == wanted or is_read_only(path):
        return db
    if not _is_new(db):
        _check_owner(path, db)
    db.conn.close()
    _change_journal(path, wanted)
    return connect(path)


def _change_journal(path: Path, wanted: str) -> None:
    """Change the journal while nobody else has the database. Nobody waits with a lock in hand, or two would forever."""
    db = connect(path)
    try:
        db.execute("pragma busy_timeout=0")
        db.execute("pragma locking_mode=exclusive")
        db.execute("begin exclusive")
        db.execute("commit")  # the lock is kept until the connection is closed
        if _journal(db) != wanted:
            _require_unbroken(path, check_seal(db, path))
            break_seal(path)
            db.execute(f"pragma journal_mode={wanted}")
            write_seal(db, path)
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error):
            raise
    finally:
        db.conn.close()


def _patiently(action: Callable[[], Database]) -> Database:
    """Try again while another process has the database to itself: SQLite waits for most locks, but not for all."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.005, 0.05))


def _journal(db: Database) -> str:
    return str(db.execute("pragma journal_mode").fetchone()[0])


def _is_new(db: Database) -> bool:
    return bool(db.execute("select count(*) from sqlite_master").fetchone()[0] == 0)


def _create_or_migrate(path: Path, db: Database) -> None:
    with transaction(db):
        if _is_new(db):
            db.execute(f"pragma application_id={APPLICATION_ID}")
        _check_owner(path, db)
        steps = pending(db)
        if steps and applied(db):
            _keep_copy(path, steps[0])
        migrate(db)


def _keep_copy(path: Path, before: str) -> None:
    """A copy of the database as it was, `adreg.db.before-<migration>`; taken under the migration's own lock."""
    with atomic_file(path.with_name(f"{path.name}.before-{before}")) as partial:
        source, target = sqlite3.connect(path), sqlite3.connect(partial)
        target.execute("pragma journal_mode=off")  # it is whole or gone; a journal beside it would outlive a kill
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()


def _check_owner(path: Path, db: Database) -> None:
    if db.execute("pragma application_id").fetchone()[0] != APPLICATION_ID:
        raise IntegrityError(f"{path} is a SQLite database, but not adreg's")
    known = {step.__name__ for step in STEPS}
    newer = [name for name in applied(db) if name not in known]
    if newer:
        raise ConflictError(f"{path} was written by a newer adreg ({newer[-1]})", "upgrade adreg with pip")


class transaction:
    """One change: everything inside is one `BEGIN IMMEDIATE`, committed whole or rolled back, then sealed.

    Raises `IntegrityError` before anything is changed when the database is not what the last change left.
    A signal may raise anywhere, even before the first statement of `__exit__`; what it leaves open, the connection's next
    transaction rolls back, or its end does.
    """

    def __init__(self, db: Database) -> None:
        self.db, self.path = db, database_path(db)

    def __enter__(self) -> None:
        with sqlite_errors(self.path):
            try:
                _lock(self.db)
                if not sealed_here(self.db, self.path):
                    _require_unbroken(self.path, check_seal(self.db, self.path))
                with disk_errors(self.path):
                    break_seal(self.path)
            except BaseException:
                self.db.conn.rollback()
                raise

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        with sqlite_errors(self.path):
            try:
                if error is not None:
                    raise error
                self.db.execute("commit")
            except BaseException:
                self.db.conn.rollback()
                raise
            finally:
                write_seal(self.db, self.path)


def _lock(db: Database) -> None:
    """Begin as the only writer; first rolls back what a signal kept from being ended."""
    db.conn.rollback()
    db.execute("begin immediate")


def _require_unbroken(path: Path, seal: Seal) -> None:
    if seal is Seal.BROKEN:
        raise IntegrityError(f"{path} is not what adreg last wrote: it was damaged or changed from outside")


@contextmanager
def unchanging(db: Database) -> Iterator[Seal]:
    """Look at the database while nobody writes; yields what the seal says. A registry that is read-only is looked at too."""
    path = database_path(db)
    with sqlite_errors(path):
        try:
            _lock_or_read(db)
            yield check_seal(db, path)
        finally:
            db.conn.rollback()


def _lock_or_read(db: Database) -> None:
    try:
        _lock(db)
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error):
            raise
        db.execute("begin")


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
