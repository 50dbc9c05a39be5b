"""Recorded trainings. A run record is a JSON object; the registry reads only the few fields it indexes."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import Any

from adreg.errors import NotFoundError
from adreg.registry.store.database import transaction
from adreg.registry.store.sqlite import Database

RunRecord = dict[str, Any]


@dataclass(frozen=True)
class Runs:
    """The runs of one registry."""

    db: Database

    def add(self, record: RunRecord) -> None:
        """Store `record` under its `id`; the same id again replaces it."""
        with transaction(self.db):
            self.db.table("run").upsert(_row(record), pk="id")

    def get(self, id_: str) -> RunRecord:
        """The record whose id starts with `id_`."""
        rows = list(self.db.query("select record from run where substr(id, 1, ?) = ? limit 2", [len(id_), id_]))
        if len(rows) != 1:
            ids = [row["id"] for row in self.db.query("select id from run")]
            raise NotFoundError("run", id_, difflib.get_close_matches(id_, ids, 3))
        found: RunRecord = json.loads(rows[0]["record"])
        return found

    def all(self) -> list[RunRecord]:
        """Every record, newest first."""
        return [json.loads(row["record"]) for row in self.db.query("select record from run order by started_at desc")]


def keep_run(db: Database, record: RunRecord) -> None:
    """Store a record that came with an adapter, inside the caller's transaction; one that is known already stays."""
    if db.execute("select 1 from run where id = ?", [record["id"]]).fetchone() is None:
        db.table("run").insert(_row(record))


def _row(record: RunRecord) -> dict[str, Any]:
    base = record.get("base") or {}
    return {
        "id": record["id"],
        "outcome": record["outcome"],
        "started_at": record["started"],
        "weights_id": base.get("weights_id"),
        "record": json.dumps(record, ensure_ascii=False),
    }
