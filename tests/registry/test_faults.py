"""The store under fire: killed pushes, a full disk, several writers at once, damaged and foreign databases."""

import os
import random
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from adreg.errors import ConflictError, IntegrityError, StorageError
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.settings import Settings

PUSH = "import sys; from adreg.cli.app import main; sys.argv[0] = 'adreg'; main()"


def adreg(home, *words):
    return [sys.executable, "-c", PUSH, *map(str, words)], {**os.environ, "ADREG_HOME": str(home)}


def is_clean(home):
    """Every row's blob is there and whole, versions are dense, and the database is sound."""
    found = Registry(Settings(home))
    assert found.db.execute("pragma integrity_check").fetchone()[0] == "ok"
    assert not found.db.execute("pragma foreign_key_check").fetchall()
    for version in found.adapters.all():
        numbers = [each.number for each in found.adapters.versions(version.adapter)]
        assert numbers == list(range(len(numbers), 0, -1))
        for each in found.adapters.versions(version.adapter):
            for digest in each.files.values():
                target = home / "check"
                found.blobs.copy_out(digest, target)
                target.unlink()
    return found


def variants(folder, count, where):
    """Copies of an adapter that differ in their README, so that each is a version of its own."""
    for index in range(count):
        copy = where / f"v{index}"
        copy.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (copy / name).write_bytes((folder / name).read_bytes())
        (copy / "README.md").write_text(f"number {index}")
        yield copy


def test_killed_pushes_leave_nothing_torn(home, other_adapter, tmp_path):
    Registry(Settings(home)).adapters.push(plan_push(other_adapter), "voice", None, None)
    dice = random.Random(7)
    acknowledged = 1
    for copy in variants(other_adapter, 12, tmp_path):
        command, environment = adreg(home, "push", copy, "voice", "-q")
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(0.25, 0.8))
        process.kill()
        output, _ = process.communicate()
        acknowledged += b"voice:" in output
    assert len(is_clean(home).adapters.versions("voice")) >= acknowledged


def test_writers_at_once_get_dense_numbers(home, other_adapter, tmp_path):
    copies = list(variants(other_adapter, 16, tmp_path))

    def run(copy):
        command, environment = adreg(home, "push", copy, "voice", "-q")
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, copies))
    assert [result.returncode for result in results] == [0] * 16, [result.stderr for result in results]
    assert sorted(result.stdout.strip() for result in results) == sorted(f"voice:{n}" for n in range(1, 17))
    is_clean(home)


@pytest.fixture
def small_disk(tmp_path):
    """Mounts file systems of a given size; skipped where that is not allowed."""
    mounted = []

    def mount(kilobytes):
        folder = tmp_path / f"disk{kilobytes}"
        folder.mkdir()
        result = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True)
        if result.returncode:
            pytest.skip("mounting a small file system needs root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("kilobytes", [64, 200, 228, 232, 240, 260, 280, 300, 320])
def test_a_full_disk_changes_nothing(small_disk, other_adapter, kilobytes):
    home = small_disk(kilobytes)
    found = Registry(Settings(home))
    size = sum(file.stat().st_size for file in other_adapter.iterdir())
    try:
        pushed = found.adapters.push(plan_push(other_adapter), "voice", None, None)
    except StorageError:
        assert [file for file in home.rglob("*") if file.is_file() and not file.name.startswith("adreg.db")] == []
        return
    assert kilobytes * 1024 > size
    is_clean_small(found, pushed.version)


def is_clean_small(found, version):
    assert found.db.execute("pragma integrity_check").fetchone()[0] == "ok"
    assert all(found.blobs.path(digest).exists() for digest in version.files.values())


def test_the_full_disk_is_explained_and_the_next_push_works(small_disk, other_adapter):
    home = small_disk(1200)
    Registry(Settings(home)).adapters.all()
    filler = home / "filler"
    with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    command, environment = adreg(home, "push", other_adapter, "voice")
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 1 and "is full" in result.stderr and "ADREG_HOME" in result.stderr
    filler.unlink()
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    is_clean(home)


def test_a_foreign_database_is_left_alone(home):
    connection = sqlite3.connect(home / "adreg.db")
    connection.execute("create table mine (x)")
    connection.commit()
    before = (home / "adreg.db").read_bytes()
    with pytest.raises(IntegrityError, match="not adreg's"):
        Registry(Settings(home)).adapters.all()
    assert (home / "adreg.db").read_bytes() == before


def test_a_newer_schema_is_refused_politely(home):
    found = Registry(Settings(home))
    found.adapters.all()
    found.db.execute("insert into _sqlite_migrations (migration_set, name, applied_at) values ('adreg', 'm999_future', 'x')")
    with pytest.raises(ConflictError, match="newer adreg"):
        Registry(Settings(home)).adapters.all()


def test_a_damaged_database_is_an_integrity_error(home, other_adapter):
    Registry(Settings(home)).adapters.push(plan_push(other_adapter), "voice", None, None)
    raw = bytearray((home / "adreg.db").read_bytes())
    raw[0:100] = bytes(100)
    (home / "adreg.db").write_bytes(raw)
    with pytest.raises(IntegrityError):
        Registry(Settings(home)).adapters.all()


def test_a_read_only_home_is_a_storage_error(tmp_path, other_adapter):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises((StorageError, NotADirectoryError)):
        Registry(Settings(blocked / "home")).adapters.all()
