"""Whether the rows make sense: versions match their digests, columns parse, names are names, the history is unbroken."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from adreg.audit.basecard import BaseCard
from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.references import check_alias, check_name, check_tag
from adreg.registry.keys import check_key_name, key_record
from adreg.registry.manifest import FileEntry, base_ids, version_digest
from adreg.registry.push import STORED
from adreg.registry.runmetrics import unpack
from adreg.registry.store.blobs import DIGEST
from adreg.registry.store.chain import broken_links
from adreg.registry.store.sqlite import Database
from adreg.registry.upkeep.findings import Findings

Row = dict[str, Any]

VERSIONS = (
    "select version.*, adapter.name || ':' || number as reference, purged_at, "
    "(select json_group_object(path, json_array(version_file.digest, blob.size)) from version_file "
    "left join blob on blob.digest = version_file.digest where version_id = version.id) as files "
    "from version join adapter on adapter.id = adapter_id order by version.id"
)
GAPS = (
    "select adapter.name, count(*), min(number), max(number) from version join adapter on adapter.id = adapter_id "
    "group by adapter_id having min(number) != 1 or max(number) != count(*)"
)
ALIASES = (
    "select adapter.name || ':' || alias.name as reference, alias.name, alias.adapter_id != version.adapter_id as foreign_ "
    "from alias join adapter on adapter.id = alias.adapter_id join version on version.id = version_id"
)


def check_records(db: Database, found: Findings) -> None:
    """Check every row. The caller holds a transaction, so that all rows are of one moment."""
    _each(db, "select * from adapter", "adapter", "name", _check_adapter, found)
    _each(db, VERSIONS, "version", "reference", _check_version, found)
    _each(db, ALIASES, "alias", "reference", _check_alias, found)
    _each(db, "select * from tag", "tag", "name", _check_tag, found)
    _each(db, "select * from parent", "parent", "reference", _check_parent, found)
    _each(db, "select * from base", "base", "name", _check_base, found)
    _each(db, "select * from run", "run", "id", _check_run, found)
    _each(db, "select * from run_metric", "run_metric", "run_id", _check_metrics, found)
    _each(db, "select * from artifact", "artifact", "path", _check_artifact, found)
    _each(db, "select * from event", "event", "id", _check_event, found)
    _each(db, "select * from api_key", "key", "name", _check_key, found)
    with found.guarded("version", "versions"):
        for name, count, first, last in db.execute(GAPS).fetchall():
            found.problem("version", name, f"has {count} versions, numbered {first} to {last}")
    with found.guarded("history", "history"):
        for id_ in broken_links(db)[:5]:
            found.problem("history", f"event {id_}", "was changed, or one before it is gone")


def _each(db: Database, query: str, kind: str, subject: str, check: Any, found: Findings) -> None:
    """Call `check(row)` for every row; it raises `ValueError` with what is wrong."""
    count = 0
    with found.guarded(kind, f"table {kind}"):
        for row in db.query(query):
            count += 1
            with found.guarded(kind, str(row[subject])):
                check(row)
    found.counts[kind] = count


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise ValueError(why)


def _check_adapter(row: Row) -> None:
    check_name(row["name"])
    _require(not row["purged_at"] or row["deleted_at"] is not None, "was purged, yet not removed")


def _check_version(row: Row) -> None:
    summary, trained_on = json.loads(row["summary"]), json.loads(row["trained_on"] or "null")
    _require(isinstance(summary, dict), "its summary is no object")
    ids = base_ids(trained_on, row["reference"])
    _require(row["weights_id"] == (ids.weights_id if ids else None), "its weights id is not that of its base")
    files = {path: FileEntry(*entry) for path, entry in json.loads(row["files"]).items()}
    if row["purged_at"]:
        _require(not files, "was purged and has files")
        return
    _require({CONFIG, WEIGHTS} <= files.keys() <= set(STORED), f"its files are {sorted(files)}")
    _require(version_digest(files, ids) == row["digest"], "its digest is not that of its files and base")
    _require(sum(file.size for file in files.values()) == row["size"], "its size is not that of its files")


def _check_alias(row: Row) -> None:
    check_alias(row["name"])
    _require(not row["foreign_"], "means a version of another adapter")


def _check_tag(row: Row) -> None:
    check_tag(row["name"])


def _check_parent(row: Row) -> None:
    _require(DIGEST.fullmatch(row["digest"]) is not None, "its parent's digest is none")


def _check_base(row: Row) -> None:
    check_name(row["name"])
    ids = vars(BaseCard.from_json(json.loads(row["card"])).ids)
    differing = [name for name, value in ids.items() if name in row and row[name] != value]
    _require(not differing, f"its card disagrees with its row: {', '.join(differing)}")
    _require(isinstance(json.loads(row["leaves"]), dict), "its leaves are no object")


def _check_run(row: Row) -> None:
    _require(json.loads(row["record"]).get("id") == row["id"], "its record is of another run")


def _check_metrics(row: Row) -> None:
    steps = len(unpack(row["packed"]).losses)
    _require(steps == row["steps"], f"holds {steps} steps, not the {row['steps']} that its row says")


def _check_artifact(row: Row) -> None:
    _require(isinstance(json.loads(row["recipe"]), dict), "its recipe is no object")
    _require(isinstance(json.loads(row["verification"] or "{}"), dict), "its verification is no object")
    _require(re.fullmatch(r"(sha256|b3):[0-9a-f]{64}", row["digest"], re.ASCII) is not None, "its digest is none")


def _check_event(row: Row) -> None:
    _require(isinstance(json.loads(row["detail"]), dict), "its detail is no object")


def _check_key(row: Row) -> None:
    check_key_name(row["name"])
    _require(isinstance(json.loads(row["models"]), list), "its models are no list")
    key = key_record(row)
    key.grant.check()
    _require(re.fullmatch(r"[0-9a-f]{64}", key.hash, re.ASCII) is not None, "its hash is none")
    for moment in (key.created_at, key.expires_at, key.revoked_at):
        _require(moment is None or datetime.fromisoformat(moment).tzinfo is not None, f"{moment!r} is no moment")
