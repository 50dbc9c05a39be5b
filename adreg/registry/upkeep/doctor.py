"""What is unusual about a registry and the machine it is on, and what to do about it. Repairs nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path

from adreg.errors import AdregError
from adreg.registry.keys import ApiKeys
from adreg.registry.store.database import connect, safe_journal, unchanging
from adreg.registry.store.filesystem import LOCAL, filesystem_of, is_read_only
from adreg.registry.store.leases import dead_leases
from adreg.registry.store.schema import STEPS, applied, pending
from adreg.registry.store.seal import Seal
from adreg.registry.store.sqlite import Database
from adreg.registry.upkeep.checkup import Check
from adreg.registry.upkeep.layout import DAY
from adreg.registry.upkeep.machine import check_machine
from adreg.settings import Settings

LOW, EMPTY = 2_000_000_000, 100_000_000
SKEW = 5.0
READ_SOON, SAVE_SOON = 30, 30


def doctor(settings: Settings, environment: Mapping[str, str] | None = None) -> list[Check]:
    """Look at this machine and at the registry in `settings.home`, in the order that a person reads."""
    checks = check_machine(os.environ if environment is None else environment)
    checks += [check_filesystem(filesystem_of(settings.home)), _space(settings.home)]
    if not settings.home.is_dir():
        return [*checks, Check("registry", "ok", f"none in {settings.home} yet")]
    checks += [*_folder(settings.home), *_file_clock(settings.home)]
    return checks + (_database(settings.database) if settings.database.exists() else [])


def check_filesystem(kind: str) -> Check:
    """Judge the type of file system that the registry is on."""
    if kind in LOCAL:
        return Check("file system", "ok", kind)
    advice = "keep ADREG_HOME on a disk of this machine, and share it with adreg registry serve"
    if kind == "unknown":
        return Check(
            "file system", "warn", "adreg cannot tell whether it is of this machine; a rollback journal is used", advice
        )
    return Check(
        "file system", "warn", f"{kind} is not known to keep locks: two writers at once could damage the database", advice
    )


def _space(home: Path) -> Check:
    where = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(where).free
    told = f"{free / 1e9:.1f} GB free"
    if free < LOW:
        return Check("space", "bad" if free < EMPTY else "warn", told, "free some space, or point ADREG_HOME elsewhere")
    return Check("space", "ok", told)


def _folder(home: Path) -> Iterator[Check]:
    """Who may write in the registry's folder."""
    status, told = home.stat(), str(home)
    if is_read_only(home):
        yield Check(
            "home", "bad", f"{told} is on a read-only file system", "it can be read; to push, point ADREG_HOME elsewhere"
        )
    elif not os.access(home, os.W_OK | os.X_OK):
        yield Check("home", "bad", f"{told} may not be written by you", f"chown or chmod {told}")
    elif status.st_uid != os.getuid():
        yield Check(
            "home", "warn", f"{told} belongs to user {status.st_uid}, you are {os.getuid()}", "use one account for a registry"
        )
    elif status.st_mode & 0o002:
        yield Check("home", "warn", f"{told} may be written by everybody", f"chmod o-w {told}")
    else:
        yield Check("home", "ok", told)
    other = home.with_name(home.name.swapcase())
    if other != home and other.exists() and other.samefile(home):
        yield Check("case", "ok", "the file system does not tell upper from lower case; nothing that adreg writes needs that")
    for file in sorted(home.glob("*token*")):
        if file.is_file() and file.stat().st_mode & 0o077:
            yield Check("tokens", "bad", f"{file} may be read by others", f"chmod 600 {file}")
    kept = sorted((home / "quarantine").glob("*"))
    if kept:
        yield Check(
            "quarantine",
            "warn",
            f"{len(kept)} damaged blobs in {kept[0].parent}",
            "look at the disk; delete them when fsck is clean",
        )


def _file_clock(home: Path) -> Iterator[Check]:
    """Files must be dated by the clock that leases and events go by."""
    if not os.access(home, os.W_OK) or is_read_only(home):
        return
    with tempfile.TemporaryFile(dir=home) as file:
        file.write(b"?")
        file.flush()
        apart = os.fstat(file.fileno()).st_mtime - time.time()
    if abs(apart) > SKEW:
        yield Check("file clock", "warn", f"files are dated {apart:+.0f} s from this machine's clock", "set both clocks by NTP")


def _database(path: Path) -> list[Check]:
    try:
        with closing(connect(path).conn) as connection:
            db = Database(connection)
            return [_schema(db), _seal(db), _journal(db, path), *(_records(db) if not pending(db) else [])]
    except (sqlite3.DatabaseError, AdregError) as error:
        return [Check("database", "bad", f"{path}: {error}", "adreg fsck says more; adreg restore BACKUP replaces it")]


def _schema(db: Database) -> Check:
    taken, known = applied(db), [step.__name__ for step in STEPS]
    if set(taken) - set(known):
        return Check("database", "bad", f"a newer adreg wrote it ({taken[-1]})", "pip install --upgrade adreg")
    if len(taken) < len(known):
        return Check("database", "ok", f"schema {taken[-1] if taken else 'empty'}; it is brought up to date when it is used")
    return Check("database", "ok", f"schema {taken[-1]}")


def _seal(db: Database) -> Check:
    with unchanging(db) as seal:
        pass
    if seal is Seal.BROKEN:
        return Check("seal", "bad", "the database is not what adreg last wrote", "adreg fsck")
    if seal is Seal.MISSING:
        return Check("seal", "ok", "a change is under way or was interrupted; the next one seals it again")
    return Check("seal", "ok", "intact")


def _journal(db: Database, path: Path) -> Check:
    mode, wanted = db.execute("pragma journal_mode").fetchone()[0], safe_journal(path)
    if mode == wanted:
        return Check("journal", "ok", mode)
    return Check("journal", "warn", f"{mode}; {wanted} is right here", "it is changed when the registry is next used")


def _records(db: Database) -> Iterator[Check]:
    newest = db.execute("select max(at) from event").fetchone()[0]
    if newest and datetime.fromisoformat(newest).timestamp() > time.time() + SKEW:
        yield Check(
            "history", "warn", f"its newest event is in the future ({newest})", "this clock is behind, or another was ahead"
        )
    held, dead = db.execute("select count(*) from lease").fetchone()[0], len(dead_leases(db))
    yield Check("leases", "ok", f"{held - dead} held, {dead} left by processes that are gone")
    yield from _keys(db)
    noted = dict(db.execute("select key, value from meta").fetchall())
    used = db.execute("select count(*) from version").fetchone()[0] > 0
    yield _age("fsck", noted.get("fsck"), READ_SOON, used, "adreg fsck --read-data")
    yield _age("backup", noted.get("backup"), SAVE_SOON, used, "adreg backup FILE")
    lost = db.execute("select count(*) from blob where state != 'ok'").fetchone()[0]
    if lost:
        yield Check(
            "blobs", "bad", f"{lost} blobs were damaged and not found again", "adreg fsck --repair, or adreg restore BACKUP"
        )


def _keys(db: Database) -> Iterator[Check]:
    """API keys; where all have ended, `adreg serve` is closed to everybody."""
    states = [key.state for key in ApiKeys(db).all()]
    active = states.count("active")
    if active:
        yield Check("API keys", "ok", f"{active} of {len(states)} are good")
    elif states:
        yield Check("API keys", "warn", f"none of {len(states)} is good: adreg serve lets nobody in", "adreg key create NAME")


def _age(name: str, at: str | None, days: int, used: bool, command: str) -> Check:
    """How long ago something was done that should be done now and then."""
    if at is None:
        return Check(name, "warn" if used else "ok", "never done", command)
    passed = (time.time() - datetime.fromisoformat(at).timestamp()) / DAY
    return Check(name, "ok" if passed <= days else "warn", f"{at}, {passed:.0f} days ago", command)
