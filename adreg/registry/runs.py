"""Recorded trainings. A run record is a JSON object; the registry reads only the few fields it indexes.

What the steps measured is kept apart from the record: in a journal while the run lasts, packed in a row when it has ended.
"""

from __future__ import annotations

import difflib
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adreg.errors import ConflictError, NotFoundError
from adreg.registry.runends import written_end
from adreg.registry.runjournal import EVALUATION, STEP, Journal, is_alive, journal_path, read_journal
from adreg.registry.runmetrics import FIELDS, Metrics, finite, metrics_of, pack, unpack
from adreg.registry.store.database import transaction
from adreg.registry.store.sqlite import Database

RunRecord = dict[str, Any]
RUNNING, LOST = "running", "lost"
RESUMABLE = ("interrupted", LOST, "failed", "diverged")
LISTED = (
    "select id, json_remove(record, '$.losses', '$.evaluations') as record, "
    "coalesce(last, json_quote(json_extract(record, '$.losses[#-1]'))) as last "
    "from run left join run_metric on run_id = id order by started_at desc, id desc"
)


@dataclass(frozen=True)
class Runs:
    """The runs of one registry. One that says it is running, yet whose process is gone, is told as `lost`."""

    db: Database
    home: Path

    def add(self, record: RunRecord) -> None:
        """Store `record` under its `id`; the same id again replaces it."""
        with transaction(self.db):
            _write(self.db, record)

    def get(self, id_: str) -> RunRecord:
        """The whole record whose id starts with `id_`, or the newest, where that is `last`."""
        record: RunRecord = json.loads(self._row(id_)["record"])
        metrics = self.metrics(record["id"])
        return self._told(record) | (metrics.as_json() if metrics.losses or metrics.evaluations else {})

    def all(self) -> list[RunRecord]:
        """Every record without its steps, newest first; `last` is the newest step, or None."""
        return [self._listed(row) for row in self.db.query(LISTED)]

    def metrics(self, id_: str) -> Metrics:
        """What the steps of the run called `id_` in full measured, as far as it has come."""
        row = self.db.execute("select packed from run_metric where run_id = ?", [id_]).fetchone()
        if row is None:
            (text,) = self.db.execute("select record from run where id = ?", [id_]).fetchone()
            kept = metrics_of(json.loads(text)) or Metrics()
        else:
            kept = unpack(row[0])
        return kept.extended(read_journal(journal_path(self.home, id_)))

    def folder(self, id_: str) -> Path:
        """Where a run keeps its journal and checkpoints while it lasts, and until it can no longer be resumed."""
        return journal_path(self.home, id_).parent

    def recorder(self) -> RunRecorder:
        """Whom a training tells how it goes."""
        return RunRecorder(self)

    def resumable(self) -> list[RunRecord]:
        """The runs that could go on, newest first."""
        return [record for record in self.all() if record["outcome"] in RESUMABLE and self._has_checkpoint(record["id"])]

    def settle(self) -> None:
        """End the lost runs whose adapter lies whole where it was to be, as that says that they ended."""
        for row in list(self.db.query("select id, record from run where outcome = ?", [RUNNING])):
            record = json.loads(row["record"])
            end = None if is_alive(journal_path(self.home, row["id"])) else written_end(record)
            if end:
                with transaction(self.db):
                    _write(self.db, record | end)
                shutil.rmtree(self.folder(row["id"]), ignore_errors=True)

    def remove(self, id_: str) -> None:
        """Forget a run, its steps and its checkpoints. Raises `ConflictError` for one that lives or that a version is of."""
        found = self._row(id_)["id"]
        if is_alive(journal_path(self.home, found)):
            raise ConflictError(f"run {found} is running", "stop it first: Ctrl-C where it runs")
        with transaction(self.db):
            versions = self.db.execute("select count(*) from version where run_id = ?", [found]).fetchone()[0]
            if versions:
                raise ConflictError(f"run {found} made {versions} stored version{'s' * (versions > 1)}, which name it")
            self.db.execute("delete from run_metric where run_id = ?", [found])
            self.db.execute("delete from run where id = ?", [found])
        shutil.rmtree(self.folder(found), ignore_errors=True)

    def _row(self, id_: str) -> dict[str, Any]:
        if id_ == "last":
            rows = list(self.db.query("select id, record from run order by started_at desc, id desc limit 1"))
        else:
            rows = list(self.db.query("select id, record from run where substr(id, 1, ?) = ? limit 2", [len(id_), id_]))
        if len(rows) != 1:
            ids = [row["id"] for row in self.db.query("select id from run order by started_at desc")]
            raise NotFoundError("run", id_, [one for one in ids if id_ and one.startswith(id_)][:3] or _close(id_, ids))
        return rows[0]

    def _listed(self, row: dict[str, Any]) -> RunRecord:
        record, last = json.loads(row["record"]), json.loads(row["last"] or "null")
        if record.get("outcome") == RUNNING:
            last = (read_journal(journal_path(self.home, row["id"])).losses or (last,))[-1]
        return self._told(record) | {"last": last if metrics_of({"losses": [last]}) else None}

    def _told(self, record: RunRecord) -> RunRecord:
        if record.get("outcome") == RUNNING and not is_alive(journal_path(self.home, record["id"])):
            return record | {"outcome": LOST}
        return record

    def _has_checkpoint(self, id_: str) -> bool:
        return any(self.folder(id_).glob("checkpoint-*"))


@dataclass
class RunRecorder:
    """Writes a run into the registry as it goes: its row at the start and the end, and each step to its journal."""

    runs: Runs
    journal: Journal | None = None
    _told: RunRecord = field(default_factory=dict)

    def began(self, record: RunRecord) -> None:
        """Raises `ConflictError` where another process trains this very run."""
        self.journal = self.journal or Journal(journal_path(self.runs.home, record["id"]))
        with transaction(self.runs.db):
            _write(self.runs.db, record)

    def step(self, step: Sequence[Any]) -> None:
        if self.journal:
            self.journal.append(STEP, step)

    def evaluated(self, evaluation: Sequence[Any]) -> None:
        if self.journal:
            self.journal.append(EVALUATION, evaluation)

    def ended(self, record: RunRecord) -> None:
        """The record, and all that was told of its steps, in one change; then the journal goes.

        A run that failed before its data was read never was one: a mistyped name is no experiment.
        """
        own = metrics_of(record) or Metrics()
        told = self.runs.metrics(record["id"]) if self.journal else Metrics()
        with transaction(self.runs.db):
            if record["outcome"] == "failed" and not record["data"]:
                self.runs.db.execute("delete from run where id = ?", [record["id"]])
            else:
                _write(self.runs.db, record, own if own.losses else told)
        if self.journal:
            self.journal.path.unlink(missing_ok=True)
            self.journal.close()
            with suppress(OSError):  # a folder with checkpoints stays
                self.journal.path.parent.rmdir()
            self.journal = None


def keep_run(db: Database, record: RunRecord) -> None:
    """Store a record that came with an adapter, inside the caller's transaction; one that is known already stays."""
    if db.execute("select 1 from run where id = ?", [record["id"]]).fetchone() is None:
        _write(db, record)


def _write(db: Database, record: RunRecord, metrics: Metrics | None = None) -> None:
    """The rows of a run. Steps that are not such as adreg writes stay in the record, as they came."""
    found = metrics or metrics_of(record)
    bare = record if found is None else {name: value for name, value in record.items() if name not in FIELDS}
    db.table("run").upsert(_row(bare), pk="id")
    if found and (found.losses or found.evaluations):
        last = json.dumps(found.losses[-1]) if found.losses else None
        row = {"run_id": record["id"], "steps": len(found.losses), "last": last, "packed": pack(found)}
        db.table("run_metric").upsert(row, pk="run_id")


def _row(record: RunRecord) -> dict[str, Any]:
    base = record.get("base") or {}
    return {
        "id": record["id"],
        "outcome": record["outcome"],
        "started_at": record["started"],
        "weights_id": base.get("weights_id"),
        "record": json.dumps(finite(record), ensure_ascii=False),
    }


def _close(id_: str, ids: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(id_, ids, 3)
