"""The history as a hash chain: each event's hash covers the one before, so that no line can change or vanish unseen."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from adreg.registry.store.sqlite import Database

COLUMNS = "at, adapter_id, verb, detail"


def append_event(db: Database, at: str, adapter_id: int, verb: str, detail: str) -> None:
    """Append one event; the caller holds the transaction."""
    last = db.execute("select hash from event order by id desc limit 1").fetchone()
    content = (at, adapter_id, verb, detail)
    db.execute(
        f"insert into event ({COLUMNS}, hash) values (?, ?, ?, ?, ?)", [*content, chained(last[0] if last else "", content)]
    )


def chained(before: str, content: tuple[Any, ...]) -> str:
    """The hash of an event with `content` that follows the event with the hash `before`."""
    return hashlib.sha256(json.dumps([before, *content]).encode()).hexdigest()


def broken_links(db: Database) -> list[int]:
    """The ids of events whose hash is not what the chain up to them gives."""
    broken, before = [], ""
    for id_, stored, *content in db.execute(f"select id, hash, {COLUMNS} from event order by id"):
        if stored != chained(before, tuple(content)):
            broken.append(id_)
        before = stored
    return broken


def link_events(db: Database) -> None:
    """Give every event of an older registry its hash."""
    before = ""
    for id_, *content in db.execute(f"select id, {COLUMNS} from event order by id").fetchall():
        before = chained(before, tuple(content))
        db.execute("update event set hash = ? where id = ?", [before, id_])
