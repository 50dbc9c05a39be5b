"""Adapter names, their history and their place in the search. Callers hold the transaction."""

from __future__ import annotations

import difflib
import getpass
import json
import os
import socket
from collections.abc import Sequence
from contextvars import ContextVar
from functools import cache
from typing import Any

from adreg.errors import ConflictError, NotFoundError
from adreg.registry.store.chain import append_event
from adreg.registry.store.database import now
from adreg.registry.store.sqlite import Database

Row = dict[str, Any]
NEARBY = 1000
# whom a change is made for, where that is not who runs this process: a server sets it for each request
acting_for: ContextVar[str | None] = ContextVar("acting_for", default=None)


def one(db: Database, query: str, values: Sequence[Any]) -> Row | None:
    """The first row of a query, or None."""
    return next(iter(db.query(query, list(values))), None)


def live_id(db: Database, name: str) -> int:
    """The row id of the adapter `name`, which was not removed. Raises `NotFoundError` with near misses."""
    row = one(db, "select id from adapter where name = ? and deleted_at is null", [name])
    if row is None:
        raise NotFoundError("adapter", name, _similar(db, name, "deleted_at is null"))
    return int(row["id"])


def removed_id(db: Database, name: str) -> int:
    """The row id of the removed adapter `name`."""
    row = one(db, "select id from adapter where name = ? and deleted_at is not null", [name])
    if row is None:
        raise NotFoundError("removed adapter", name, _similar(db, name, "deleted_at is not null"))
    return int(row["id"])


def _similar(db: Database, name: str, condition: str) -> list[str]:
    """Names like `name`, looked for among the `NEARBY` before it in the alphabet and as many from it on: comparing it with
    every name of a large registry would take seconds, which anybody who asks a server for nonsense could have."""
    live = f"select name from adapter where {condition} and name"
    before = f"select name from ({live} < :name order by name desc limit {NEARBY})"
    query = f"{before} union all select name from ({live} >= :name order by name limit {NEARBY})"
    return difflib.get_close_matches(name, [row["name"] for row in db.query(query, {"name": name})], 3)


def claim_name(db: Database, name: str) -> int:
    """The row id of the adapter `name`, made if it is new. Raises `ConflictError` while a removed one holds it."""
    row = one(db, "select id, deleted_at, purged_at from adapter where name = ?", [name])
    if row is None:
        _require_no_remote(db, name)
        cursor = db.execute("insert into adapter (name, created_at) values (?, ?)", [name, now()])
        return cursor.lastrowid or 0
    if row["purged_at"]:
        raise ConflictError(
            f"adapter {name!r} was removed, and its version numbers are never used again", "choose another name"
        )
    if row["deleted_at"]:
        raise ConflictError(f"adapter {name!r} was removed", f"adreg restore {name}, or choose another name")
    return int(row["id"])


def _require_no_remote(db: Database, name: str) -> None:
    """A namespace called as a remote would give `remote/x` two meanings."""
    namespace, slash, _ = name.partition("/")
    if slash and one(db, "select 1 from remote where name = ?", [namespace]):
        raise ConflictError(f"{namespace!r} is a remote here", f"choose another namespace, or adreg remote rm {namespace}")


def known_references(db: Database, adapter_id: int, name: str) -> list[str]:
    """A few references that do exist, for an error to name."""
    query = (
        "select number as tag from (select number from version where adapter_id = :id and yanked_at is null "
        "order by number desc limit 4) union all select name from (select name from alias where adapter_id = :id limit 4)"
    )
    return [f"{name}:{row['tag']}" for row in db.query(query, {"id": adapter_id})][:6]


def record_event(db: Database, adapter_id: int, verb: str, **detail: Any) -> None:
    """Append one line to the adapter's history, with who did it."""
    append_event(db, now(), adapter_id, verb, json.dumps({"actor": acting_for.get() or actor(), **detail}))


@cache
def actor() -> str:
    """Who this process acts for: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def index_adapter(db: Database, adapter_id: int) -> None:
    """Bring the search index up to date with an adapter's name, description, notes and tags."""
    db.execute("delete from search where rowid = ?", [adapter_id])
    db.execute(
        "insert into search (rowid, name, description, notes, tags) select adapter.id, adapter.name, description, "
        "(select coalesce(group_concat(notes, ' '), '') from version where adapter_id = adapter.id), "
        "(select coalesce(group_concat(tag.name, ' '), '') from tag join version on version.id = version_id "
        "where adapter_id = adapter.id) from adapter where adapter.id = ?",
        [adapter_id],
    )
