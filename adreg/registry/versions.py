"""Versions: read from their rows, found by reference, and written once. Callers hold the transaction for writing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adreg.errors import ConflictError, NotFoundError
from adreg.formats.fingerprint import BaseIds
from adreg.references import Reference
from adreg.registry.manifest import FileEntry, Parent, version_digest
from adreg.registry.names import Row, claim_name, index_adapter, live_id, one, point_alias, record_event, tags
from adreg.registry.records import VersionRecord
from adreg.registry.runs import keep_run
from adreg.registry.store.blobs import BlobStore
from adreg.registry.store.database import now
from adreg.registry.store.sqlite import Database

SELECT = (
    "select version.*, adapter.name as adapter, "
    "(select name from base where base.weights_id = version.weights_id order by base.id limit 1) as base, "
    "(select json_group_array(name) from alias where version_id = version.id) as aliases, "
    "(select json_group_array(name) from tag where version_id = version.id) as tags, "
    "(select json_group_object(path, digest) from version_file where version_id = version.id) as files "
    "from version join adapter on adapter.id = version.adapter_id "
)
NEWEST = (
    "version.yanked_at is null and number = (select max(number) from version newer "
    "where newer.adapter_id = adapter.id and newer.yanked_at is null)"
)


@dataclass(frozen=True)
class Draft:
    """A version that is about to be: audited, its files stored as blobs."""

    name: str
    alias: str | None
    files: dict[str, FileEntry]
    summary: dict[str, Any]
    trained_on: BaseIds | None
    run: dict[str, Any] | None
    parents: tuple[Parent, ...] = ()
    origin: str = "push"
    notes: str = ""
    tags: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return version_digest(self.files, self.trained_on)


def find_versions(db: Database, where: str, values: Sequence[Any] = ()) -> list[VersionRecord]:
    """The versions that an SQL condition (and order) selects."""
    return [_record(row) for row in db.query(f"{SELECT} where {where}", list(values))]


def resolve_version(db: Database, reference: Reference) -> VersionRecord:
    """The one version that `reference` means now. Raises `NotFoundError` with what there is instead."""
    adapter_id = live_id(db, reference.name)
    condition, value = _condition(reference)
    found = find_versions(db, f"adapter.id = ? and {condition}", [adapter_id, *value])
    if len(found) != 1:
        raise NotFoundError("version", str(reference), tags(db, adapter_id, reference.name))
    return found[0]


def _condition(reference: Reference) -> tuple[str, list[Any]]:
    if reference.version:
        return "number = ?", [reference.version]
    if reference.alias:
        return "version.id = (select version_id from alias where adapter_id = adapter.id and name = ?)", [reference.alias]
    if reference.digest:
        return "version.digest like ?", [f"{reference.digest}%"]
    return NEWEST, []


def commit_version(db: Database, blobs: BlobStore, draft: Draft) -> tuple[int, bool]:
    """Write `draft` as the next version of its name: its number, and whether it is new (the same content is not)."""
    adapter_id = claim_name(db, draft.name)
    known = one(db, "select number from version where adapter_id = ? and digest = ?", [adapter_id, draft.digest])
    number = known["number"] if known else _insert(db, blobs, adapter_id, draft)
    if draft.alias:
        point_alias(db, adapter_id, draft.alias, number)
    return number, known is None


def _insert(db: Database, blobs: BlobStore, adapter_id: int, draft: Draft) -> int:
    _insert_blobs(db, blobs, draft)
    if draft.run:
        keep_run(db, draft.run)
    latest = one(db, "select coalesce(max(number), 0) as number from version where adapter_id = ?", [adapter_id])
    number = (latest["number"] if latest else 0) + 1
    version_id = db.table("version").insert(_row(adapter_id, number, draft)).last_pk
    for path, file in draft.files.items():
        db.execute("insert into version_file values (?, ?, ?)", [version_id, path, file.digest])
    for parent in draft.parents:
        db.execute("insert into parent values (?, ?, ?, ?)", [version_id, parent.digest, parent.reference, parent.relation])
    for tag in draft.tags:
        db.execute("insert into tag values (?, ?)", [version_id, tag])
    index_adapter(db, adapter_id)
    record_event(db, adapter_id, "push", version=number, digest=draft.digest)
    return number


def _row(adapter_id: int, number: int, draft: Draft) -> dict[str, Any]:
    return {
        "adapter_id": adapter_id,
        "number": number,
        "digest": draft.digest,
        "trained_on": json.dumps(vars(draft.trained_on)) if draft.trained_on else None,
        "weights_id": draft.trained_on.weights_id if draft.trained_on else None,
        "summary": json.dumps(draft.summary, ensure_ascii=False),
        "size": sum(file.size for file in draft.files.values()),
        "run_id": draft.run["id"] if draft.run else None,
        "origin": draft.origin,
        "notes": draft.notes,
        "created_at": now(),
    }


def _insert_blobs(db: Database, blobs: BlobStore, draft: Draft) -> None:
    """Rows for the blobs, which must still be there, whatever ran since they were stored."""
    for file in draft.files.values():
        if not blobs.path(file.digest).exists():
            raise ConflictError(f"blob {file.digest} was removed meanwhile", "push again")
        db.execute(
            "insert into blob (digest, size, created_at) values (?, ?, ?) on conflict (digest) do update set state = 'ok'",
            [file.digest, file.size, now()],
        )


def _record(row: Row) -> VersionRecord:
    return VersionRecord(
        id=row["id"],
        adapter=row["adapter"],
        number=row["number"],
        digest=row["digest"],
        base=row["base"],
        trained_on=BaseIds(**json.loads(row["trained_on"])) if row["trained_on"] else None,
        summary=json.loads(row["summary"]),
        size=row["size"],
        run=row["run_id"],
        created_at=row["created_at"],
        aliases=tuple(sorted(json.loads(row["aliases"]))),
        files=dict(sorted(json.loads(row["files"]).items())),
        tags=tuple(sorted(json.loads(row["tags"]))),
        notes=row["notes"],
        origin=row["origin"],
        yanked=row["yank_reason"] if row["yanked_at"] else None,
    )
