"""Judges a registry with sqlite3, hashlib and blake3 alone: nothing here is adreg's own code, so no mistake is shared."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

FILES = "select version_file.version_id, path, digest from version_file order by 1, 2"
VERSIONS = "select id, adapter_id, number, digest, yanked_at is not null, yank_reason from version order by adapter_id, number"


@dataclass(frozen=True)
class State:
    """What a registry holds, times and row ids left out: two registries with the same state are the same to a user."""

    adapters: dict[str, Any]
    bases: dict[str, str]
    history: tuple[Any, ...]


@contextmanager
def raw(home: Path) -> Iterator[sqlite3.Connection]:
    """A plain connection, as another program would have; opening it rolls a killed writer's journal back."""
    with closing(sqlite3.connect(home / "adreg.db", timeout=30)) as connection:
        yield connection


def state(home: Path) -> State:
    """The registry's content. A `home` without a database holds nothing."""
    if not (home / "adreg.db").exists():
        return State({}, {}, ())
    with raw(home) as db:
        if not db.execute("select 1 from sqlite_master where name = 'adapter'").fetchone():
            return State({}, {}, ())
        files: dict[int, list[Any]] = {}
        for version, path, digest in db.execute(FILES):
            files.setdefault(version, []).append((path, digest))
        adapters = {}
        for id_, name, removed in db.execute("select id, name, deleted_at is not null from adapter order by name").fetchall():
            versions = {
                number: (digest, tuple(files.get(version, ())))
                for version, number, digest in db.execute(
                    "select id, number, digest from version where adapter_id = ? order by number", [id_]
                )
            }
            query = "select name, number from alias join version on version.id = version_id where alias.adapter_id = ?"
            adapters[name] = (bool(removed), versions, dict(db.execute(query, [id_]).fetchall()))
        bases = dict(db.execute("select name, weights_id from base").fetchall())
        history = tuple(db.execute("select adapter_id, verb, detail from event order by id").fetchall())
        return State(adapters, bases, history)


def faults(home: Path) -> list[str]:
    """Everything that is wrong with the registry in `home`; empty for a sound one."""
    if not (home / "adreg.db").exists():
        return []
    with raw(home) as db:
        found = [f"integrity_check: {line}" for (line,) in db.execute("pragma integrity_check") if line != "ok"]
        found += [f"foreign key: {row}" for row in db.execute("pragma foreign_key_check")]
        if db.execute("select 1 from sqlite_master where name = 'lease'").fetchone():
            found += [*_numbering(db), *_aliases(db), *_chain(db)]
        if db.execute("select 1 from sqlite_master where name = 'version_file'").fetchone():
            found += _blobs(db, home)
    return [*found, *_seal(home)]


def _numbering(db: sqlite3.Connection) -> Iterator[str]:
    for adapter, count, least, most in db.execute(
        "select adapter_id, count(*), min(number), max(number) from version group by adapter_id"
    ):
        if (least, most) != (1, count):
            yield f"adapter {adapter} has {count} versions from {least} to {most}"


def _aliases(db: sqlite3.Connection) -> Iterator[str]:
    query = "select name from alias join version on version.id = version_id where version.adapter_id != alias.adapter_id"
    for (name,) in db.execute(query):
        yield f"alias {name} means a version of another adapter"


def _chain(db: sqlite3.Connection) -> Iterator[str]:
    before = ""
    for id_, stored, *content in db.execute("select id, hash, at, adapter_id, verb, detail from event order by id"):
        before = hashlib.sha256(json.dumps([before, *content]).encode()).hexdigest()
        if stored != before:
            yield f"event {id_} does not follow the one before"


def _blobs(db: sqlite3.Connection, home: Path) -> Iterator[str]:
    for (digest,) in db.execute("select distinct digest from version_file").fetchall():
        file = blob_path(home, digest)
        if not file.is_file():
            yield f"{digest} is missing"
        elif hashlib.sha256(file.read_bytes()).hexdigest() != digest.removeprefix("sha256:"):
            yield f"{digest} is damaged"


def _seal(home: Path) -> Iterator[str]:
    """A seal may be missing after a kill, never broken."""
    seal, log, content = home / "adreg.db.seal", home / "adreg.db-wal", (home / "adreg.db").read_bytes()
    logged = log.exists() and log.stat().st_size
    if content and not logged and seal.exists() and seal.read_text().strip() != "b3:" + blake3(content).hexdigest():
        yield "the seal is broken"


def blob_path(home: Path, digest: str) -> Path:
    value = digest.removeprefix("sha256:")
    return home / "blobs" / "sha256" / value[:2] / value


def debris(home: Path) -> list[str]:
    """Files that nothing in the registry needs, as paths under `home`."""
    with raw(home) as db:
        needed = {blob_path(home, digest) for (digest,) in db.execute("select digest from version_file")}
        needed |= {blob_path(home, digest) for (digest,) in db.execute("select sketch from base where sketch is not null")}
    # a journal that holds nothing to roll back is left by a killed writer, and SQLite's next write takes it over
    needed |= {home / "adreg.db", home / "adreg.db.seal", home / "adreg.db-journal"}
    files = {path for path in home.rglob("*") if not path.is_dir()}
    return sorted(str(path.relative_to(home)) for path in files - needed if not path.name.startswith("adreg.db.before-"))
