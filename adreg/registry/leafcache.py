"""Remembers the leaves of checkpoint files, so that a base is read once and not again until it changes."""

from __future__ import annotations

import json
from dataclasses import dataclass

from adreg.formats.fingerprint import ALGORITHM, FileKey, Leaf
from adreg.registry.store.database import transaction
from adreg.registry.store.sqlite import Database

KEY = "device = ? and inode = ? and size = ? and mtime_ns = ? and ctime_ns = ? and algorithm = ?"


@dataclass(frozen=True)
class SqliteLeafCache:
    """A `LeafCache` in the registry's database."""

    db: Database

    def get(self, key: FileKey) -> dict[str, Leaf] | None:
        row = self.db.execute(f"select leaves from leaf_cache where {KEY}", _values(key)).fetchone()
        return None if row is None else load_leaves(row[0])

    def put(self, key: FileKey, leaves: dict[str, Leaf]) -> None:
        with transaction(self.db):
            self.db.execute(
                "insert or replace into leaf_cache values (?, ?, ?, ?, ?, ?, ?)", (*_values(key), dump_leaves(leaves))
            )


def _values(key: FileKey) -> tuple[int | str, ...]:
    # SQLite's integers are signed, device and inode numbers are not
    device, inode = ((number + 2**63) % 2**64 - 2**63 for number in (key.device, key.inode))
    return (device, inode, key.size, key.mtime_ns, key.ctime_ns, ALGORITHM)


def dump_leaves(leaves: dict[str, Leaf]) -> str:
    return json.dumps({name: [leaf.stored, leaf.values] for name, leaf in leaves.items()}, separators=(",", ":"))


def load_leaves(text: str) -> dict[str, Leaf]:
    return {name: Leaf(*hashes) for name, hashes in json.loads(text).items()}
