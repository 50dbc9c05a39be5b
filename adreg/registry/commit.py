"""Versions, written: once, as the next number of their name. Callers hold the transaction."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from adreg.errors import ConflictError
from adreg.formats.bases.fingerprint import BaseIds
from adreg.registry.aliases import point_alias
from adreg.registry.manifest import FileEntry, Parent, version_digest
from adreg.registry.names import claim_name, index_adapter, one, record_event
from adreg.registry.runs import keep_run
from adreg.registry.store.blobs import BlobStore
from adreg.registry.store.database import now
from adreg.registry.store.sqlite import Database


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
    yanked: str | None = None

    @property
    def digest(self) -> str:
        return version_digest(self.files, self.trained_on)


def commit_version(db: Database, blobs: BlobStore, draft: Draft) -> tuple[int, bool]:
    """Write `draft` as the next version of its name: its row id, and whether it is new (the same content is not)."""
    adapter_id = claim_name(db, draft.name)
    known = one(db, "select id, yanked_at from version where adapter_id = ? and digest = ?", [adapter_id, draft.digest])
    if known and known["yanked_at"] and draft.origin == "push":
        why = f"this content is {draft.name}@{draft.digest[:19]}, which was yanked"
        raise ConflictError(why, f"adreg yank --undo {draft.name}@{draft.digest[:19]} brings it back")
    version_id = known["id"] if known else insert_version(db, blobs, adapter_id, draft)
    if draft.alias:
        point_alias(db, adapter_id, draft.alias, version_id)
    if known is None:
        index_adapter(db, adapter_id)
    return version_id, known is None


def insert_version(db: Database, blobs: BlobStore, adapter_id: int, draft: Draft) -> int:
    """The rows of a new version, without its name's place in the search; the row id."""
    _insert_blobs(db, blobs, draft)
    if draft.run:
        keep_run(db, draft.run)
    latest = one(db, "select coalesce(max(number), 0) as number from version where adapter_id = ?", [adapter_id])
    number = (latest["number"] if latest else 0) + 1
    row = version_row(adapter_id, number, draft)
    marks = ", ".join("?" * len(row))
    cursor = db.execute(f"insert into version ({', '.join(row)}) values ({marks})", list(row.values()))
    version_id = cursor.lastrowid or 0
    for path, file in draft.files.items():
        db.execute("insert into version_file values (?, ?, ?)", [version_id, path, file.digest])
    for parent in draft.parents:
        db.execute("insert into parent values (?, ?, ?, ?)", [version_id, parent.digest, parent.reference, parent.relation])
    for tag in draft.tags:
        db.execute("insert into tag values (?, ?)", [version_id, tag])
    record_event(db, adapter_id, "push", version=number, digest=draft.digest, origin=draft.origin)
    return version_id


def version_row(adapter_id: int, number: int, draft: Draft) -> dict[str, Any]:
    """The columns of a version's row."""
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
        "yanked_at": None if draft.yanked is None else now(),
        "yank_reason": draft.yanked,
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
