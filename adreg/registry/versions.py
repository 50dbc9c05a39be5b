"""Versions, read: found by reference, and listed without a query for each. Writing them is `commit`'s business."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adreg.errors import NotFoundError, YankedError
from adreg.references import Reference
from adreg.registry.names import Row, known_references, live_id, one
from adreg.registry.records import VersionRecord
from adreg.registry.store.sqlite import Database

SELECT = (
    "select version.*, adapter.name as adapter, "
    "(select name from base where base.weights_id = version.weights_id order by base.id limit 1) as base, "
    "(select json_group_array(name) from alias where version_id = version.id) as aliases, "
    "(select json_group_array(name) from tag where version_id = version.id) as tags, "
    "(select json_group_object(path, digest) from version_file where version_id = version.id) as files "
    "from version join adapter on adapter.id = version.adapter_id "
)
LISTED = (
    "select version.id, adapter.name || ':' || number as reference, digest, size, version.created_at, weights_id, "
    "case when yanked_at is null then null else yank_reason end as yanked, "
    "coalesce(json_extract(summary, '$.rank'), 0) as rank, coalesce(json_extract(summary, '$.parameters'), 0) as parameters "
    "from version join adapter on adapter.id = version.adapter_id "
)
NEWEST = (
    "version.id = (select fits.id from version fits where fits.adapter_id = adapter.id and fits.yanked_at is null{} "
    "order by fits.number desc limit 1)"
)


@dataclass(frozen=True)
class Wanted:
    """Which versions to list: all of adapter `name`, or else the newest of each that fits; `base` is its weights' id."""

    name: str | None = None
    tag: str | None = None
    base: str | None = None


def find_versions(db: Database, where: str, values: Sequence[Any] = ()) -> list[VersionRecord]:
    """The versions that an SQL condition (and order) selects."""
    return [_record(row) for row in db.query(f"{SELECT} where {where}", list(values))]


def is_newest(db: Database, version: VersionRecord) -> bool:
    """Whether its adapter has no later version that was not yanked."""
    later = "adapter_id = (select adapter_id from version where id = ?) and number > ? and yanked_at is null"
    return one(db, f"select 1 from version where {later}", [version.id, version.number]) is None


def wanted_versions(db: Database, wanted: Wanted) -> list[VersionRecord]:
    """The versions that are wanted, complete."""
    return find_versions(db, *_condition_of(db, wanted))


def wanted_rows(db: Database, wanted: Wanted) -> list[Row]:
    """The versions that are wanted, as a table shows them; four queries, however many there are."""
    where, values = _condition_of(db, wanted)
    rows = list(db.query(f"{LISTED} where {where}", list(values)))
    aliases, tags = _by_version(db, "alias"), _by_version(db, "tag")
    bases = dict(db.execute("select weights_id, name from base order by id desc"))
    for row in rows:
        id_ = row["id"]
        row["aliases"], row["tags"], row["base"] = aliases.get(id_, ()), tags.get(id_, ()), bases.get(row["weights_id"])
    return rows


def _by_version(db: Database, table: str) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for version_id, name in db.execute(f"select version_id, name from {table} order by name"):
        found.setdefault(version_id, []).append(name)
    return found


def _condition_of(db: Database, wanted: Wanted) -> tuple[str, list[Any]]:
    table = "fits" if wanted.name is None else "version"
    conditions, values = "", []
    if wanted.tag is not None:
        conditions += f" and exists (select 1 from tag where version_id = {table}.id and tag.name = ?)"
        values.append(wanted.tag)
    if wanted.base is not None:
        conditions += f" and {table}.weights_id = ?"
        values.append(wanted.base)
    if wanted.name is None:
        return f"deleted_at is null and {NEWEST.format(conditions)} order by adapter.name", values
    return f"adapter.id = ?{conditions} order by version.number desc", [live_id(db, wanted.name), *values]


def resolve_version(db: Database, reference: Reference, yanked: bool = False) -> VersionRecord:
    """The one version that `reference` means now. `yanked`: also a yanked one by its number.

    Raises `NotFoundError` with what there is instead, and `YankedError` for a version that was taken back.
    """
    adapter_id = live_id(db, reference.name)
    condition, values = _condition(reference)
    found = find_versions(db, f"adapter.id = ? and {condition}", [adapter_id, *values])
    if len(found) != 1:
        raise NotFoundError("version", str(reference), known_references(db, adapter_id, reference.name))
    version = found[0]
    if version.yanked is not None and not reference.digest and not yanked:
        raise YankedError(str(reference), version.digest, version.yanked)
    return version


def _condition(reference: Reference) -> tuple[str, list[Any]]:
    if reference.version:
        return "number = ?", [reference.version]
    if reference.alias:
        return "version.id = (select version_id from alias where adapter_id = adapter.id and name = ?)", [reference.alias]
    if reference.digest:
        return "version.digest like ?", [f"{reference.digest}%"]
    return NEWEST.format(""), []


def _record(row: Row) -> VersionRecord:
    return VersionRecord(
        id=row["id"],
        adapter=row["adapter"],
        number=row["number"],
        digest=row["digest"],
        base=row["base"],
        stored=(row["trained_on"], row["summary"], row["files"]),
        size=row["size"],
        run=row["run_id"],
        created_at=row["created_at"],
        aliases=_names(row["aliases"]),
        tags=_names(row["tags"]),
        notes=row["notes"],
        origin=row["origin"],
        yanked=(row["yank_reason"] or "") if row["yanked_at"] else None,
    )


def _names(text: str) -> tuple[str, ...]:
    return () if text == "[]" else tuple(sorted(json.loads(text)))
