"""Adapter names, their aliases and their history, as functions of an open database. Callers hold the transaction."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

from adreg.errors import ConflictError, NotFoundError
from adreg.registry.store.chain import append_event
from adreg.registry.store.database import now
from adreg.registry.store.sqlite import Database

Row = dict[str, Any]


def one(db: Database, query: str, values: Sequence[Any]) -> Row | None:
    """The first row of a query, or None."""
    return next(iter(db.query(query, list(values))), None)


def live_id(db: Database, name: str) -> int:
    """The row id of the adapter `name`, which was not removed. Raises `NotFoundError` with near misses."""
    row = one(db, "select id from adapter where name = ? and deleted_at is null", [name])
    if row is None:
        names = [row["name"] for row in db.query("select name from adapter where deleted_at is null")]
        raise NotFoundError("adapter", name, difflib.get_close_matches(name, names, 3))
    return int(row["id"])


def removed_id(db: Database, name: str) -> int:
    """The row id of the removed adapter `name`."""
    row = one(db, "select id from adapter where name = ? and deleted_at is not null", [name])
    if row is None:
        names = [row["name"] for row in db.query("select name from adapter where deleted_at is not null")]
        raise NotFoundError("removed adapter", name, difflib.get_close_matches(name, names, 3))
    return int(row["id"])


def claim_name(db: Database, name: str) -> int:
    """The row id of the adapter `name`, made if it is new. Raises `ConflictError` while a removed one holds it."""
    row = one(db, "select id, deleted_at from adapter where name = ?", [name])
    if row is None:
        cursor = db.execute("insert into adapter (name, created_at) values (?, ?)", [name, now()])
        return cursor.lastrowid or 0
    if row["deleted_at"]:
        raise ConflictError(f"adapter {name!r} was removed", f"adreg restore {name}, or choose another name")
    return int(row["id"])


def tags(db: Database, adapter_id: int, name: str) -> list[str]:
    """A few references that do exist, for an error to name."""
    query = "select number as tag from version where adapter_id = :id union all select name from alias where adapter_id = :id"
    return [f"{name}:{row['tag']}" for row in db.query(query, {"id": adapter_id})][:6]


def point_alias(db: Database, adapter_id: int, alias: str, number: int) -> None:
    """Make `alias` mean version `number`; no change and no event where it does already."""
    query = "select number from alias join version on version.id = version_id where alias.adapter_id = ? and name = ?"
    before = one(db, query, [adapter_id, alias])
    if before and before["number"] == number:
        return
    db.execute(
        "insert into alias (adapter_id, name, version_id, updated_at) "
        "select adapter_id, ?, id, ? from version where adapter_id = ? and number = ? "
        "on conflict (adapter_id, name) do update set version_id = excluded.version_id, updated_at = excluded.updated_at",
        [alias, now(), adapter_id, number],
    )
    record_event(db, adapter_id, "alias", alias=alias, version=number, was=before["number"] if before else None)


def drop_alias(db: Database, adapter_id: int, name: str, alias: str) -> None:
    """Remove `alias`. Raises `NotFoundError`."""
    if one(db, "select 1 from alias where adapter_id = ? and name = ?", [adapter_id, alias]) is None:
        raise NotFoundError("alias", f"{name}:{alias}", tags(db, adapter_id, name))
    db.execute("delete from alias where adapter_id = ? and name = ?", [adapter_id, alias])
    record_event(db, adapter_id, "alias removed", alias=alias)


def record_event(db: Database, adapter_id: int, verb: str, **detail: Any) -> None:
    """Append one line to the adapter's history."""
    append_event(db, now(), adapter_id, verb, json.dumps(detail))


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
