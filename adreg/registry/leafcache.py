"""Remembers what was found out about files, so that a base is read once and not again until it changes."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.formats.bases.leaves import FileKey
from adreg.registry.store.database import transaction
from adreg.registry.store.sqlite import Database

KEY = "device = ? and inode = ? and size = ? and mtime_ns = ? and ctime_ns = ? and algorithm = ?"


@dataclass(frozen=True)
class SqliteLeafCache:
    """A `LeafCache` in the registry's database."""

    db: Database

    def get(self, key: FileKey, algorithm: str) -> str | None:
        row = self.db.execute(f"select leaves from leaf_cache where {KEY}", _values(key, algorithm)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: FileKey, algorithm: str, found: str) -> None:
        with transaction(self.db):
            self.db.execute("insert or replace into leaf_cache values (?, ?, ?, ?, ?, ?, ?)", (*_values(key, algorithm), found))


def _values(key: FileKey, algorithm: str) -> tuple[int | str, ...]:
    # SQLite's integers are signed, device and inode numbers are not
    device, inode = ((number + 2**63) % 2**64 - 2**63 for number in (key.device, key.inode))
    return (device, inode, key.size, key.mtime_ns, key.ctime_ns, algorithm)
