"""sqlite-utils, imported without numpy and pandas: it looks for both, and they cost more than the rest of a listing."""

from __future__ import annotations

import sys

ABSENT = [name for name in ("numpy", "pandas") if name not in sys.modules]
sys.modules.update(dict.fromkeys(ABSENT))  # type: ignore[arg-type]  # None makes an import fail
try:
    from sqlite_utils import Database, Migrations
finally:
    for name in ABSENT:
        del sys.modules[name]

__all__ = ["Database", "Migrations"]
