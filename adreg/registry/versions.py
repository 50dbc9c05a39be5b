"""Versions: read from their rows, found by reference, and written once. Callers hold the transaction for writing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adreg.errors import ConflictError, NotFoundError
from adreg.formats.fingerprint import BaseIds
from adreg.references import Reference
from adreg.registry.blobs import Blob, BlobStore
from adreg.registry.database import now
from adreg.registry.names import Row, claim_name, live_id, one, point_alias, record_event, tags
from adreg.registry.records import VersionRecord
from adreg.registry.runs import keep_run
from adreg.registry.sqlite import Database

SELECT = (
    "select version.*, adapter.name as adapter, base.name as base from version "
    "join adapter on adapter.id = version.adapter_id left join base on base.id = version.base_id "
)
NEWEST = "number = (select max(number) from version newer where newer.adapter_id = adapter.id)"


@dataclass(frozen=True)
class Draft:
    """A version that is about to be: audited, its blobs stored under `blobs` by file name."""

    name: str
    alias: str | None
    blobs: dict[str, Blob]
    summary: dict[str, Any]
    trained_on: BaseIds | None
    run: dict[str, Any] | None

    @property
    def weights_id(self) -> str | None:
        return self.trained_on.weights_id if self.trained_on else None

    @property
    def digest(self) -> str:
        """The version's digest: SHA-256 over its files by digest, and its base."""
        files = {name: blob.digest for name, blob in self.blobs.items()}
        content = json.dumps({"base": self.weights_id, "files": files}, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(content.encode()).hexdigest()


def find_versions(db: Database, where: str, values: Sequence[Any] = ()) -> list[VersionRecord]:
    """The versions that an SQL condition (and order) selects."""
    return [_record(db, row) for row in db.query(f"{SELECT} where {where}", list(values))]


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
    row = {
        "adapter_id": adapter_id,
        "number": number,
        "digest": draft.digest,
        "base_id": _base_id(db, draft.weights_id),
        "trained_on": json.dumps(vars(draft.trained_on)) if draft.trained_on else None,
        "summary": json.dumps(draft.summary, ensure_ascii=False),
        "size": sum(blob.size for blob in draft.blobs.values()),
        "run_id": draft.run["id"] if draft.run else None,
        "created_at": now(),
    }
    version_id = db.table("version").insert(row).last_pk
    db.table("version_file").insert_all(
        {"version_id": version_id, "path": path, "digest": blob.digest} for path, blob in draft.blobs.items()
    )
    record_event(db, adapter_id, "push", version=number, digest=draft.digest)
    return number


def _insert_blobs(db: Database, blobs: BlobStore, draft: Draft) -> None:
    """Rows for the blobs, which must still be there: a clean-up may have run since they were stored."""
    for blob in draft.blobs.values():
        if not blobs.path(blob.digest).exists():
            raise ConflictError(f"blob {blob.digest} was removed meanwhile", "push again")
        db.execute("insert or ignore into blob values (?, ?, ?)", [blob.digest, blob.size, now()])


def _base_id(db: Database, weights_id: str | None) -> int | None:
    row = one(db, "select id from base where weights_id = ? order by id", [weights_id])
    return row["id"] if row else None


def _record(db: Database, row: Row) -> VersionRecord:
    aliases = db.execute("select name from alias where version_id = ? order by name", [row["id"]]).fetchall()
    files = db.execute("select path, digest from version_file where version_id = ? order by path", [row["id"]]).fetchall()
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
        aliases=tuple(alias[0] for alias in aliases),
        files=dict(files),
    )
