"""What a user is told when the store cannot work: a full disk, a foreign, newer or damaged database. The soak does the rest."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial

import pytest

from adreg.errors import ConflictError, IntegrityError, StorageError
from adreg.registry.registry import Registry
from adreg.registry.store import database
from adreg.settings import Settings
from tests.registry.soak.apart import apart, small_disk, used
from tests.registry.soak.builders import opened, push, small_adapter
from tests.registry.soak.oracle import debris, faults

PUSH = "import sys; from adreg.cli.app import main; sys.argv[0] = 'adreg'; main()"


def push_by_command(home, folder):
    command = [sys.executable, "-c", PUSH, "push", str(folder), "voice"]
    return subprocess.run(command, env={**os.environ, "ADREG_HOME": str(home)}, capture_output=True, text=True, timeout=120)


def on_a_full_disk(disk, folder):
    with small_disk(disk) as resize:
        push(disk, small_adapter(folder.with_name("first"), 1), "first")
        resize(used(disk))
        refused = push_by_command(disk, folder)
        assert refused.returncode == 1 and "is full" in refused.stderr and "ADREG_HOME" in refused.stderr, refused.stderr
        assert debris(disk) == []
        resize(10 << 20)
        assert push_by_command(disk, folder).returncode == 0
        return faults(disk)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk_is_explained_and_the_next_push_works(tmp_path):
    (tmp_path / "disk").mkdir()
    assert apart(partial(on_a_full_disk, tmp_path / "disk", small_adapter(tmp_path / "voice", 2))) == "[]"


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_foreign_database_is_left_alone(home, monkeypatch, journal):
    monkeypatch.setattr(database, "safe_journal", lambda path: journal)
    with closing(sqlite3.connect(home / "adreg.db")) as connection:
        connection.execute("create table mine (x)")
        connection.commit()
    before = (home / "adreg.db").read_bytes()
    with pytest.raises(IntegrityError, match="not adreg's"):
        Registry(Settings(home)).adapters.all()
    assert (home / "adreg.db").read_bytes() == before


def test_a_newer_schema_is_refused_politely(home):
    with opened(home) as registry, database.transaction(registry.db):
        registry.db.execute(
            "insert into _sqlite_migrations (migration_set, name, applied_at) values ('adreg', 'm999_future', 'x')"
        )
    with pytest.raises(ConflictError, match="newer adreg"):
        Registry(Settings(home)).adapters.all()


def test_a_damaged_database_is_an_integrity_error(home, tmp_path):
    push(home, small_adapter(tmp_path / "voice", 1), "voice")
    raw = bytearray((home / "adreg.db").read_bytes())
    raw[0:100] = bytes(100)
    (home / "adreg.db").write_bytes(raw)
    with pytest.raises(IntegrityError):
        Registry(Settings(home)).adapters.all()


def test_a_home_that_cannot_be_is_a_storage_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises((StorageError, NotADirectoryError)):
        Registry(Settings(blocked / "home")).adapters.all()
