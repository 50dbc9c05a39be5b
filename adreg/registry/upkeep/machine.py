"""What is unusual about this machine: Python, SQLite, packages, environment. Knows no registry."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from adreg.registry.store.database import wal_is_sound
from adreg.registry.upkeep.checkup import Check

EXTRAS = {
    "train": ("torch", "transformers", "peft", "accelerate"),
    "serve": ("torch", "transformers", "fastapi", "uvicorn"),
    "llamacpp": ("xllamacpp", "httpx2"),
}
OLDEST_SQLITE = (3, 37, 0)  # the first with strict tables
LOOPBACK = re.compile(r"http://(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?(/|$)", re.ASCII)
THIS_YEAR = 2026


def check_machine(environment: Mapping[str, str]) -> list[Check]:
    """Everything about the machine that is the same for every registry."""
    extras = [_extra(name, packages) for name, packages in EXTRAS.items()]
    python = Check("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    return [
        python,
        check_sqlite(sqlite3.sqlite_version_info),
        _text_search(),
        _hashing(),
        *extras,
        *_environment(environment),
        _umask(),
        _year(),
    ]


def check_sqlite(library: tuple[int, ...]) -> Check:
    """Judge a version of the SQLite library."""
    name = ".".join(map(str, library[:3]))
    if library < OLDEST_SQLITE:
        return Check("sqlite", "bad", f"{name} has no strict tables", "use a Python with SQLite 3.37 or newer")
    if wal_is_sound(library):
        return Check("sqlite", "ok", name)
    return Check("sqlite", "ok", f"{name}: its write-ahead log could corrupt databases, so adreg keeps a rollback journal")


def _text_search() -> Check:
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute("create virtual table probe using fts5(text)")
        except sqlite3.OperationalError as error:
            return Check("fts5", "bad", f"SQLite has no full-text search: {error}", "use a Python whose SQLite has FTS5")
    return Check("fts5", "ok", "SQLite has full-text search")


def _hashing() -> Check:
    found = _installed("blake3")
    return Check("blake3", "ok", found) if found else Check("blake3", "bad", "is not installed", "pip install blake3")


def _extra(name: str, packages: tuple[str, ...]) -> Check:
    found = {package: _installed(package) for package in packages}
    missing = [package for package, installed in found.items() if not installed]
    told = ", ".join(f"{package} {installed}" for package, installed in found.items() if installed)
    if not missing:
        return Check(f"adreg[{name}]", "ok", told)
    return Check(
        f"adreg[{name}]", "ok", f"not installed: {', '.join(missing)}", f"pip install 'adreg[{name}]' where it is wanted"
    )


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _environment(environment: Mapping[str, str]) -> list[Check]:
    checks = []
    for name in ("ADREG_HOME", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        value = environment.get(name)
        if value and name == "HF_ENDPOINT" and value.startswith("http://") and not LOOPBACK.match(value):
            checks.append(Check(name, "warn", f"{value} is not encrypted", "use https:// where the network is not your own"))
        elif value and name == "ADREG_HOME" and not Path(value).expanduser().is_absolute():
            checks.append(
                Check(name, "warn", f"{value} is relative: each folder has a registry of its own", "make it absolute")
            )
        elif value:
            checks.append(Check(name, "ok", value))
    return checks


def _umask() -> Check:
    mask = os.umask(0o077)
    os.umask(mask)
    if mask & 0o700:
        return Check("umask", "bad", f"{mask:03o} takes your own files away from you", "umask 022, or 077 for yourself alone")
    if not mask & 0o002:
        return Check("umask", "warn", f"{mask:03o} lets everybody change new files", "umask 022, or 077 for yourself alone")
    return Check("umask", "ok", f"{mask:03o}")


def _year() -> Check:
    year = time.gmtime().tm_year
    if year < THIS_YEAR:
        return Check("clock", "bad", f"this machine believes it is {year}", "set its clock: clean-ups go by age")
    return Check("clock", "ok", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
