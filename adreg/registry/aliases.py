"""Aliases: names that move from version to version, some only by force. Callers hold the transaction."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from adreg.errors import ConflictError, NotFoundError
from adreg.registry.names import Row, known_references, live_id, one, record_event
from adreg.registry.records import AliasRecord
from adreg.registry.store.database import now
from adreg.registry.store.sqlite import Database


class Now(Enum):
    """What an alias may mean before it moves, where no version is named."""

    ANYTHING = "anything"


@dataclass(frozen=True)
class Move:
    """How an alias may move: only while it means `expect` (a number or digest, None for no version), its protection set
    or taken, and by force."""

    expect: int | str | Literal[Now.ANYTHING] | None = Now.ANYTHING
    protect: bool | None = None
    force: bool = False


FREELY = Move()


def point_alias(db: Database, adapter_id: int, alias: str, version_id: int, move: Move = FREELY) -> None:
    """Make `alias` mean a version of its adapter. Raises `ConflictError` where `move` or its protection forbids it."""
    target = one(db, "select number, digest, yanked_at from version where id = ?", [version_id])
    before, name = _alias(db, adapter_id, alias), _name(db, adapter_id)
    if target is None or target["yanked_at"]:
        raise ConflictError(f"{name}:{alias} cannot mean a version that was yanked", "choose another version")
    _check_expected(f"{name}:{alias}", before, move)
    moves = before is None or before["version_id"] != version_id
    if before and before["protected"] and not move.force and (moves or move.protect is False):
        raise _protected(f"{name}:{alias}", before, f"adreg alias set {name}:{target['number']} {alias} --force")
    if moves:
        was = before["number"] if before else None
        _write(db, adapter_id, alias, version_id)
        record_event(db, adapter_id, "alias", alias=alias, version=target["number"], was=was, **_forced(before))
    if move.protect is not None and move.protect != bool(before and before["protected"]):
        _protect(db, adapter_id, alias, move.protect)


def drop_alias(db: Database, adapter_id: int, alias: str, move: Move = FREELY) -> None:
    """Remove `alias`. Raises `NotFoundError`, and `ConflictError` where `move` or its protection forbids it."""
    before, name = _alias(db, adapter_id, alias), _name(db, adapter_id)
    if before is None:
        raise NotFoundError("alias", f"{name}:{alias}", known_references(db, adapter_id, name))
    _check_expected(f"{name}:{alias}", before, move)
    if before["protected"] and not move.force:
        raise _protected(f"{name}:{alias}", before, f"adreg alias rm {name}:{alias} --force")
    db.execute("delete from alias where adapter_id = ? and name = ?", [adapter_id, alias])
    record_event(db, adapter_id, "alias removed", alias=alias, was=before["number"], **_forced(before))


def list_aliases(db: Database, name: str | None = None) -> list[AliasRecord]:
    """Every alias (of `name`), by adapter and name."""
    only = "and adapter.id = :adapter" if name else ""
    query = (
        "select adapter.name as adapter, alias.name as name, number, protected, updated_at from alias "
        "join adapter on adapter.id = alias.adapter_id join version on version.id = version_id "
        f"where deleted_at is null {only} order by 1, 2"
    )
    rows = db.query(query, {"adapter": live_id(db, name)} if name else {})
    return [AliasRecord(**{**row, "protected": bool(row["protected"])}) for row in rows]


def check_unprotected(db: Database, adapter_id: int, name: str, hint: str) -> None:
    """Raise `ConflictError` while a protected alias means a version of the adapter."""
    found = one(db, "select name from alias where adapter_id = ? and protected order by name", [adapter_id])
    if found:
        raise ConflictError(f"alias {name}:{found['name']} is protected", hint)


def _check_expected(alias: str, before: Row | None, move: Move) -> None:
    if move.expect is Now.ANYTHING:
        return
    found = before and before["digest" if isinstance(move.expect, str) else "number"]
    if found != move.expect:
        means = f"means version {before['number']}" if before else "does not exist"
        wanted = "no version" if move.expect is None else f"version {move.expect}"
        raise ConflictError(f"{alias} {means} now, not {wanted}", "look at what changed, then say what you expect now")


def _protected(alias: str, before: Row, hint: str) -> ConflictError:
    return ConflictError(f"{alias} is protected and stays with version {before['number']}", hint)


def _forced(before: Row | None) -> dict[str, bool]:
    return {"forced": True} if before and before["protected"] else {}


def _write(db: Database, adapter_id: int, alias: str, version_id: int) -> None:
    db.execute(
        "insert into alias (adapter_id, name, version_id, updated_at) values (?, ?, ?, ?) "
        "on conflict (adapter_id, name) do update set version_id = excluded.version_id, updated_at = excluded.updated_at",
        [adapter_id, alias, version_id, now()],
    )


def _protect(db: Database, adapter_id: int, alias: str, protect: bool) -> None:
    db.execute("update alias set protected = ? where adapter_id = ? and name = ?", [int(protect), adapter_id, alias])
    record_event(db, adapter_id, "alias protected" if protect else "alias unprotected", alias=alias)


def _alias(db: Database, adapter_id: int, alias: str) -> Row | None:
    query = (
        "select version_id, number, digest, protected from alias join version on version.id = version_id "
        "where alias.adapter_id = ? and name = ?"
    )
    return one(db, query, [adapter_id, alias])


def _name(db: Database, adapter_id: int) -> str:
    return str(db.execute("select name from adapter where id = ?", [adapter_id]).fetchone()[0])
