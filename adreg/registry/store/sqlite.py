"""One SQLite connection: sqlite3 reads; sqlite-utils writes rows and migrates, imported when the first of those happens."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adreg.errors import UsageError

if TYPE_CHECKING:
    from sqlite_utils.db import Table

Values = Sequence[Any] | Mapping[str, Any]


class Database:
    """A connection in autocommit mode; transactions are the caller's. `sealed` is the last seal that it wrote."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn
        self.sealed = ""

    def execute(self, statement: str, values: Values = ()) -> sqlite3.Cursor:
        """Raises `UsageError` for text that is no Unicode, as a name in another encoding on a command line is."""
        try:
            return self.conn.execute(statement, values)
        except UnicodeEncodeError as error:
            raise UsageError(f"{error.object[:80]!r} is not Unicode text") from error

    def query(self, statement: str, values: Values = ()) -> Iterator[dict[str, Any]]:
        """The rows of a query by column."""
        cursor = self.execute(statement, values)
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row))  # noqa: B905  # they are always as many, and this runs for every row

    def table(self, name: str) -> Table:
        """A table that rows given as mappings are written to."""
        import_sqlite_utils()
        from sqlite_utils import Database as Tables

        return Tables(self.conn, execute_plugins=False).table(name)


def import_sqlite_utils() -> None:
    """Import sqlite-utils without numpy and pandas: it looks for both, and they cost more than all the rest.

    Not where other threads run, which may be importing them themselves.
    """
    alone = threading.active_count() == 1
    absent = [name for name in ("numpy", "pandas") if alone and name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None makes an import fail
    try:
        import sqlite_utils  # noqa: F401
    finally:
        for name in absent:
            del sys.modules[name]
