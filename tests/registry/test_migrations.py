"""A registry of the first release opens, moves to the present schema by itself, and keeps what it said."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import tarfile
from pathlib import Path

import pytest

from adreg.errors import IntegrityError, StorageError
from adreg.references import parse_reference
from adreg.registry.store.chain import broken_links
from adreg.registry.store.database import transaction
from adreg.registry.store.schema import STEPS, applied
from adreg.registry.store.seal import Seal, check_seal
from adreg.registry.upkeep.fsck import fsck
from adreg.registry.upkeep.reading import ReadData
from tests.registry.processes import run_and_kill, spawn, time_of, wait
from tests.registry.soak.builders import opened, push, small_adapter, unpack

# made by the code of schema m001: two versions of voice with aliases, one of ns/other, a removed adapter, base, run, artifact
FIRST = Path(__file__).parent / "data" / "version1.tar.xz"
COPY = "adreg.db.before-m002_trust"


@pytest.fixture
def old(home):
    with tarfile.open(FIRST) as archive:
        unpack(archive, home)
    return home


def rows(path):
    """Every row of the first schema's tables, as it says things."""
    connection = sqlite3.connect(path)
    tables = {
        name: [row[1] for row in connection.execute(f"pragma table_info({name})")]
        for name in ("base", "adapter", "run", "blob", "version", "version_file", "alias", "event", "artifact")
    }
    present = {
        name: sorted(map(repr, connection.execute(f"select {', '.join(columns)} from {name}")))
        for name, columns in tables.items()
    }
    connection.close()
    return tables, present


def test_every_row_keeps_its_meaning_and_the_old_file_is_kept(old, tmp_path):
    before = (old / "adreg.db").read_bytes()
    columns, told = rows(old / "adreg.db")
    with opened(old) as registry:
        one = registry.adapters.resolve(parse_reference("voice:prod"))
        assert (one.number, one.base, one.run) == (1, "tiny", "20261121-abc")
        assert registry.adapters.resolve(parse_reference("voice:next")).number == 2
        assert {version.reference for version in registry.adapters.all()} == {"voice:2", "ns/other:1"}
        assert [event.verb for event in registry.adapters.log("voice")] == ["alias", "push", "alias", "push"]
        assert one.trained_on and registry.bases.get("tiny").card.ids.weights_id == one.trained_on.weights_id
        assert registry.runs.get("20261121")["outcome"] == "finished"
        assert [artifact.verification for artifact in registry.artifacts.of(one)] == [{"kl": 0.1}]
        registry.adapters.pull(one, tmp_path / "out")
        registry.adapters.restore("gone")
        assert registry.adapters.resolve(parse_reference("gone")).number == 1
        assert applied(registry.db) == [step.__name__ for step in STEPS]
        assert broken_links(registry.db) == [] and check_seal(registry.db, old / "adreg.db") is Seal.INTACT
        assert registry.db.execute("select count(*) from search where search match 'voice'").fetchone() == (1,)
        found = {
            name: sorted(map(repr, registry.db.execute(f"select {', '.join(each)} from {name}")))
            for name, each in columns.items()
        }
    assert {name: kept for name, kept in found.items() if name not in ("adapter", "event")} == {
        name: kept for name, kept in told.items() if name not in ("adapter", "event")
    }
    assert set(told["event"]) < set(found["event"])
    kept = sqlite3.connect(old / COPY)
    assert kept.execute("pragma integrity_check").fetchone() == ("ok",)
    kept.close()
    assert rows(old / COPY) == (columns, told) and len((old / COPY).read_bytes()) == len(before)
    with opened(old) as registry:
        assert fsck(registry, ReadData()).problems == ()


def test_a_migrated_registry_has_the_same_tables_as_a_new_one_and_takes_pushes(old, tmp_path):
    assert push(old, small_adapter(tmp_path / "new", 9), "voice", "prod") == "voice:3"
    with opened(old) as registry:
        assert fsck(registry).problems == ()


def test_eight_processes_that_open_it_at_once_migrate_it_once(old):
    def read():
        with opened(old) as registry:
            assert len(registry.adapters.all()) == 2

    original = (old / "adreg.db").read_bytes()
    for _ in range(4):
        (old / "adreg.db.seal").unlink(missing_ok=True)
        (old / "adreg.db").write_bytes(original)
        children = [spawn(read) for _ in range(8)]
        assert [wait(child) for child in children] == [0] * 8
    with opened(old) as registry:
        assert fsck(registry).problems == ()
        assert applied(registry.db) == [step.__name__ for step in STEPS]


def test_killed_anywhere_the_migration_has_happened_or_not(old, tmp_path):
    original, told = (old / "adreg.db").read_bytes(), rows(old / "adreg.db")[1]
    dice = random.Random(3)
    states = []

    def migrate():
        with opened(old) as registry:
            registry.adapters.all()

    usual = time_of(migrate)
    for _ in range(30):
        for name in ("adreg.db.seal", "adreg.db-journal", "adreg.db-wal", "adreg.db-shm", COPY):
            (old / name).unlink(missing_ok=True)
        (old / "adreg.db").write_bytes(original)
        run_and_kill(migrate, dice.uniform(0, 1.2 * usual))
        connection = sqlite3.connect(old / "adreg.db")
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        steps = [name for (name,) in connection.execute("select name from _sqlite_migrations order by rowid")]
        connection.close()
        states.append(len(steps))
        assert steps == [step.__name__ for step in STEPS][: len(steps)]
        if len(steps) == 1:
            assert rows(old / "adreg.db")[1] == told
        else:
            assert rows(old / COPY)[1] == told
        with opened(old) as registry:
            assert fsck(registry).problems == ()
    assert 1 in states, states


def test_a_damaged_old_registry_is_not_migrated(old):
    (old / "adreg.db.seal").write_text("b3:00\n")
    before = (old / "adreg.db").read_bytes()
    with opened(old) as registry, pytest.raises(IntegrityError):
        registry.adapters.all()
    with opened(old) as registry:
        assert not fsck(registry).clean
    assert (old / "adreg.db").read_bytes() == before and not (old / COPY).exists()


@pytest.fixture
def read_only(home):
    """Makes the registry's folder a file system that cannot be written; skipped where that is not allowed."""
    mounted = []

    def mount():
        result = subprocess.run(["mount", "--bind", home, home], capture_output=True)
        if result.returncode or subprocess.run(["mount", "-o", "remount,ro,bind", home], capture_output=True).returncode:
            pytest.skip("a read-only mount needs root")
        mounted.append(home)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_read_only_old_registry_says_so_and_a_present_one_is_read_and_checked(old, read_only, tmp_path):
    with opened(old) as registry:
        registry.adapters.all()
        assert fsck(registry).clean
    read_only()
    with opened(old) as registry:
        registry.adapters.pull(registry.adapters.resolve(parse_reference("voice")), tmp_path / "out")
        report = fsck(registry, ReadData())
        assert report.problems == () and any("not recorded" in note for note in report.notes)
        with pytest.raises(StorageError), transaction(registry.db):
            registry.db.execute("delete from alias")


def test_a_read_only_folder_of_the_first_schema_is_a_storage_error(old, read_only):
    read_only()
    with opened(old) as registry, pytest.raises(StorageError):
        registry.adapters.all()


def test_the_recorded_times_and_digests_are_those_of_the_first_release(old):
    with opened(old) as registry:
        detail = registry.db.execute("select detail from event order by id limit 1").fetchone()[0]
        (digest,) = registry.db.execute("select digest from version order by id limit 1").fetchone()
    assert json.loads(detail)["digest"] == digest and FIRST.stat().st_size < 10_000
