"""Which servers run on this machine: each keeps a small file under ADREG_HOME while it lives. Knows files, asks nobody.

A server holds a lock on its file (flock), and locks die with their process: a file that nobody locks is a leftover,
whatever runs under its pid by now.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from adreg.errors import StorageError
from adreg.formats.atomic import disk_errors
from adreg.formats.strictjson import read_object

FOLDER = "servers"
RULE = "S-SRV-1"
log = logging.getLogger("adreg.serve")


@dataclass(frozen=True)
class Presence:
    """A running server. `key` opens it to whoever may read the file, which is its owner alone; None where it needs none."""

    pid: int
    url: str
    base: str
    started: str
    key: str | None


@contextmanager
def announced(home: Path, base: str, key: str | None, url: str) -> Iterator[None]:
    """Let `running` find this process as the server of `base` at `url`, for as long as the block lasts.

    Where the disk takes no file it is not found, and serves all the same.
    """
    presence = Presence(os.getpid(), url, base, datetime.now(UTC).isoformat(timespec="microseconds"), key)
    path = home / FOLDER / f"{presence.pid}-{url.rpartition(':')[2]}.json"
    try:
        file = _publish(path, presence)
    except StorageError as error:
        log.warning("adreg ps and adreg chat do not find this server: %s", error)
        yield
        return
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _publish(path: Path, presence: Presence) -> TextIO:
    """Write the file at `path`; it is locked for as long as it stays open."""
    partial = path.with_suffix(".partial")
    with disk_errors(path), ExitStack() as undo:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        file = undo.enter_context(os.fdopen(handle, "w", encoding="utf-8"))
        undo.callback(partial.unlink, missing_ok=True)
        json.dump(asdict(presence), file)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        partial.replace(path)
        undo.pop_all()
        return file


def running(home: Path) -> list[Presence]:
    """The servers that run, the oldest first. Removes what dead ones have left."""
    found = [_read(path) for path in (home / FOLDER).glob("*.json")]
    return sorted((presence for presence in found if presence), key=lambda presence: presence.started)


def _read(path: Path) -> Presence | None:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        told = read_object(path, RULE)
        return Presence(**{field.name: told[field.name] for field in fields(Presence)})
    path.unlink(missing_ok=True)
    return None
