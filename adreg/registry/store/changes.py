"""Whether a registry's database was changed, asked so cheaply that an event loop may do it. Knows no table."""

from __future__ import annotations

import sqlite3
from pathlib import Path


class Changes:
    """Watches the database at `path` from one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None

    def count(self) -> int | None:
        """Another number than before if anybody has changed anything; None where that cannot be told without waiting.

        SQLite's `data_version`: it does not depend on the journal, and while a writer commits nobody waits for it.
        """
        try:
            if self._db is None:
                address = f"{self._path.absolute().as_uri()}?mode=ro"
                self._db = sqlite3.connect(address, timeout=0, isolation_level=None, uri=True)
            found: int = self._db.execute("pragma data_version").fetchone()[0]
        except sqlite3.Error:
            return None
        return found
