"""Whether the database file is whole: its seal, its length, SQLite's own checks and its tables. Knows no row."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from adreg.registry.store.database import connect, database_path, unchanging
from adreg.registry.store.schema import APPLICATION_ID, migrate
from adreg.registry.store.seal import Seal
from adreg.registry.store.sqlite import Database
from adreg.registry.upkeep.findings import Findings

KIND = "database"
SHOWN = 20


def check_file(path: Path, found: Findings) -> bool:
    """Check the file at `path` as it is, before anything migrates it; whether its rows are worth looking at."""
    before = len(found.problems)
    with found.guarded(KIND, path.name):
        db = connect(path)
        try:
            with unchanging(db) as seal:
                _check_seal(seal, path, found)
                _check_length(db, path, found)
                _check_structure(db, path, found)
        finally:
            db.conn.close()
    return not any(problem.kind == KIND for problem in found.problems[before:])


def _check_seal(seal: Seal, path: Path, found: Findings) -> None:
    if seal is Seal.BROKEN:
        found.problem("seal", path.name, "is not what adreg last wrote: it was damaged, or changed from outside")
    elif seal is Seal.MISSING:
        found.note(f"{path.name} was not sealed: a change was interrupted, or the disk was full")


def _check_length(db: Database, path: Path, found: Findings) -> None:
    """The file must be as long as its pages; what a write-ahead log still holds is not in it yet."""
    with found.guarded(KIND, path.name):
        (pages,), (page,) = db.execute("pragma page_count").fetchone(), db.execute("pragma page_size").fetchone()
        wal = path.with_name(path.name + "-wal")
        size = path.stat().st_size
        if size != pages * page and not (wal.exists() and wal.stat().st_size):
            found.problem(KIND, path.name, f"holds {size} bytes; its {pages} pages are {pages * page}")


def _check_structure(db: Database, path: Path, found: Findings) -> None:
    with found.guarded(KIND, path.name):
        owner = db.execute("pragma application_id").fetchone()[0]
        found.require(owner == APPLICATION_ID, KIND, path.name, "is a SQLite database, but not adreg's")
    with found.guarded(KIND, path.name):
        for (line,) in db.execute(f"pragma integrity_check({SHOWN})").fetchall():
            found.require(line == "ok", KIND, path.name, str(line))
    with found.guarded(KIND, path.name):
        for table, row, parent, _ in db.execute("pragma foreign_key_check").fetchall()[:SHOWN]:
            found.problem(KIND, path.name, f"row {row} of {table} belongs to a row of {parent} that is not there")


def check_schema(db: Database, found: Findings) -> None:
    """The tables, indexes and triggers must be those that the migrations make, and no others."""
    with found.guarded("schema", database_path(db).name):
        here, expected = _schema(db), _schema(_fresh())
        for name in sorted(here.keys() | expected.keys()):
            if here.get(name) != expected.get(name):
                what = "is missing" if name not in here else "is not adreg's" if name not in expected else "was changed"
                found.problem("schema", name, f"the database's {name} {what}")


def check_search(db: Database, found: Findings) -> None:
    """The search index must agree with itself and know every adapter."""
    with found.guarded("search", "search"):
        try:
            db.execute("insert into search(search) values ('integrity-check')")
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):
                raise
    missing = "select name from adapter where not exists (select 1 from search where rowid = adapter.id)"
    with found.guarded("search", "search"):
        for (name,) in db.execute(missing).fetchall():
            found.problem("search", name, "is not in the search index")


def _schema(db: Database) -> dict[str, str]:
    rows = db.execute("select name, type, sql from sqlite_master where sql is not null").fetchall()
    return {name: f"{kind} {' '.join(sql.split())}" for name, kind, sql in rows if not name.startswith("sqlite_")}


def _fresh() -> Database:
    db = Database(sqlite3.connect(":memory:", isolation_level=None))
    migrate(db)
    return db
