"""The seal is read without memory for the whole database, and without giving up the locks on it."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from adreg.errors import IntegrityError
from adreg.registry.store import rawfile
from adreg.registry.store.database import database_path, transaction
from adreg.registry.store.seal import Seal, check_seal, seal_path

WRITE = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('begin immediate')"


@pytest.fixture
def path(registry):
    with transaction(registry.db):
        registry.db.execute("insert into meta values ('large', ?)", ["x" * 40_000_000])
    return database_path(registry.db)


def others_may_write(path):
    return subprocess.run([sys.executable, "-c", WRITE, str(path)], capture_output=True, timeout=60).returncode == 0


def test_a_seal_takes_no_memory_and_keeps_the_lock(registry, path):
    assert rawfile.own_descriptor(path) is not None
    registry.db.execute("begin immediate")
    tracemalloc.start()
    assert check_seal(registry.db, path) is Seal.INTACT
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * rawfile.PIECE and not others_may_write(path)
    registry.db.conn.rollback()
    assert others_may_write(path)


def test_the_seal_is_the_same_where_no_descriptor_can_be_found(registry, path, monkeypatch):
    monkeypatch.setattr(rawfile, "DESCRIPTORS", Path("/nowhere"))
    assert rawfile.own_descriptor(path) is None and check_seal(registry.db, path) is Seal.INTACT


def test_a_flipped_byte_is_seen_before_the_next_change(registry, path):
    with path.open("r+b") as file:
        file.seek(20_000_000)
        file.write(b"y")
    registry.db.sealed = ""  # as another process has it
    with pytest.raises(IntegrityError), transaction(registry.db):
        registry.db.execute("delete from meta")
    assert seal_path(path).exists()
