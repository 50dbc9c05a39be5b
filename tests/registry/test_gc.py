"""The clean-up takes what nobody needs, nothing else, whoever works beside it and wherever it is killed."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from functools import partial

import pytest

from adreg.errors import AdregError, ConflictError, IntegrityError
from adreg.references import parse_reference
from adreg.registry.push import plan_push
from adreg.registry.store.database import transaction
from adreg.registry.store.leases import Lease
from adreg.registry.upkeep.fsck import fsck
from adreg.registry.upkeep.gc import run_gc
from adreg.registry.upkeep.gcplan import GcPolicy, plan_gc
from adreg.registry.upkeep.reading import ReadData
from tests.registry.processes import run_and_kill, spawn, time_of, wait
from tests.registry.soak.builders import opened, push, small_adapter

DAY = 86400
NOW = GcPolicy(grace=0, purge_after=0)


@pytest.fixture
def pushed(home, tmp_path):
    """Two versions of `voice`, and `old`, which was removed; all a year old."""
    for number in range(3):
        push(home, small_adapter(tmp_path / f"v{number}", number), "voice" if number else "old", "prod")
    with opened(home) as registry, transaction(registry.db):
        registry.db.execute("update adapter set deleted_at = '2025-01-01T00:00:00Z' where name = 'old'")
    age(home)
    return home


def age(home, days=365):
    for path in (home / "blobs").rglob("*"):
        os.utime(path, (time.time() - days * DAY,) * 2)


def orphan(home, value="ab" * 32, days=2):
    path = home / "blobs" / "sha256" / value[:2] / value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"nobody's")
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def collect(home, policy=None):
    with opened(home) as registry:
        return run_gc(registry, plan_gc(registry, policy))


def check(home, notes=None):
    with opened(home) as registry:
        report = fsck(registry, ReadData())
    assert report.problems == () and (notes is None or len(report.notes) == notes), report


def versions(home, name="voice"):
    with opened(home) as registry:
        return [version.number for version in registry.adapters.versions(name)]


def test_a_plan_changes_nothing_and_names_what_will_go(pushed):
    alone, young = orphan(pushed), orphan(pushed, "cd" * 32, days=0)
    before = sorted(path for path in pushed.rglob("*"))
    with opened(pushed) as registry:
        plan = plan_gc(registry)
    assert [adapter.name for adapter in plan.expired] == ["old"] and plan.waiting == 1
    assert {blob.digest[7:9] for blob in plan.blobs} >= {"ab"} and len(plan.blobs) == 2
    assert sorted(path for path in pushed.rglob("*")) == before
    result = collect(pushed)
    assert (result.purged, result.trashed) == (1, 2)
    assert not alone.exists() and young.exists()
    assert versions(pushed) == [2, 1]
    check(pushed, notes=2)


def test_a_removed_adapter_is_restorable_until_it_is_purged_and_its_name_is_never_used_again(pushed, tmp_path):
    assert collect(pushed, GcPolicy(purge_after=10_000 * DAY)).purged == 0
    with opened(pushed) as registry:
        registry.adapters.restore("old")
        registry.adapters.remove("old")
    collect(pushed, NOW)
    check(pushed)
    with opened(pushed) as registry:
        with pytest.raises(ConflictError, match="old"):
            registry.adapters.restore("old")
        with pytest.raises(ConflictError, match="old"):
            registry.adapters.push(plan_push(tmp_path / "v0"), "old", None, None)
        assert registry.db.execute("select verb from event order by id desc limit 1").fetchone()[0] == "purged"
        assert registry.db.execute("select count(*) from version").fetchone()[0] == 3


def test_blobs_that_two_adapters_share_stay_for_the_other(pushed, tmp_path):
    push(pushed, tmp_path / "v0", "again")
    collect(pushed, NOW)
    with opened(pushed) as registry:
        registry.adapters.pull(registry.adapters.resolve(parse_reference("again")), tmp_path / "out")
    check(pushed)


def test_trash_is_emptied_when_it_is_old_or_at_once_when_asked(pushed):
    orphan(pushed)
    collect(pushed)
    kept = [path for path in (pushed / "trash").rglob("*") if path.is_file()]
    assert len(kept) == 2 and collect(pushed).unlinked == 0
    with opened(pushed) as registry:
        assert run_gc(registry, plan_gc(registry, now=time.time() + 2 * DAY)).unlinked == 2
    assert list((pushed / "trash").iterdir()) == []
    orphan(pushed)
    assert collect(pushed, GcPolicy(empty_trash=True)).unlinked == 1
    check(pushed, notes=0)


def test_a_living_lease_guards_what_was_stored_since_and_a_dead_one_does_not(pushed):
    path = orphan(pushed, days=0)
    os.utime(path)
    with opened(pushed) as registry, opened(pushed) as other:
        with Lease(other.db, "push"):
            os.utime(path)
            assert run_gc(registry, plan_gc(registry, GcPolicy(grace=0, purge_after=DAY * 1e4))).trashed == 0
        with Lease(other.db, "backup", since=0.0):
            os.utime(path, (1, 1))
            assert run_gc(registry, plan_gc(registry, GcPolicy(grace=0, purge_after=DAY * 1e4))).trashed == 0
        with transaction(other.db):
            gone = f"{os.uname().nodename}:999999999"
            other.db.execute("insert into lease (owner, purpose, taken_at, expires_at) values (?, 'push', 0, 9e9)", [gone])
        assert run_gc(registry, plan_gc(registry, GcPolicy(grace=0, purge_after=DAY * 1e4))).trashed == 1


def test_what_comes_into_use_between_plan_and_sweep_stays(pushed, tmp_path):
    with opened(pushed) as registry:
        plan = plan_gc(registry)
        assert len(plan.expired) == 1 and len(plan.blobs) == 1
        push(pushed, tmp_path / "v0", "again")
        age(pushed)
        registry.adapters.restore("old")
        result = run_gc(registry, plan)
    assert (result.purged, result.trashed) == (0, 0) and versions(pushed, "old") == [1]
    check(pushed, notes=0)


def test_only_files_with_a_blobs_name_in_a_blobs_place_are_ever_taken(pushed, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    odd = [orphan(pushed, "notes.txt"), orphan(pushed, "AB" * 32), orphan(pushed, "ab" * 33)]
    misplaced = pushed / "blobs" / "sha256" / "00" / ("ab" * 32)
    misplaced.parent.mkdir(exist_ok=True)
    misplaced.write_text("x")
    link = pushed / "blobs" / "sha256" / "ef" / ("ef" * 32)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    (pushed / "blobs" / "sha256" / "fo").symlink_to(tmp_path)
    with opened(pushed) as registry:
        plan = plan_gc(registry, NOW)
        run_gc(registry, plan)
    assert {*odd, misplaced, link, pushed / "blobs" / "sha256" / "fo"} == set(plan.odd)
    assert all(path.exists() for path in plan.odd) and outside.read_text() == "mine"


DAMAGE = ["seal", "garbage", "rows lost", "every row lost", "cut", "gone", "empty", "a version's files lost"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_missing_database_condemns_nothing(pushed, damage):
    database = pushed / "adreg.db"
    statement = {
        "rows lost": "delete from event where id = 2",
        "every row lost": "delete from version_file",
        "a version's files lost": "delete from version_file where path = 'adapter_model.safetensors' and version_id = 3",
    }.get(damage)
    if statement:
        connection = sqlite3.connect(database)
        connection.executescript(f"drop trigger event_stays; {statement};")
        connection.execute(
            "create trigger event_stays before delete on event begin select raise(abort, 'history never changes'); end"
        )
        connection.close()
        (pushed / "adreg.db.seal").unlink()
    elif damage == "seal":
        (pushed / "adreg.db.seal").write_text("b3:00\n")
    elif damage == "gone":
        database.unlink()
    else:
        raw = database.read_bytes()
        database.write_bytes({"garbage": bytes(len(raw)), "cut": raw[: len(raw) // 2], "empty": b""}[damage])
        (pushed / "adreg.db.seal").unlink()
    blobs = sorted((pushed / "blobs").rglob("*"))
    with pytest.raises(IntegrityError):
        collect(pushed, NOW)
    assert sorted((pushed / "blobs").rglob("*")) == blobs


def test_a_fresh_database_beside_old_blobs_condemns_nothing(pushed):
    (pushed / "adreg.db").unlink()
    (pushed / "adreg.db.seal").unlink()
    shutil.move(pushed / "blobs", pushed / "aside")
    with opened(pushed) as registry:
        registry.adapters.all()
    shutil.move(pushed / "aside", pushed / "blobs")
    with pytest.raises(IntegrityError, match="nothing is removed"):
        collect(pushed, NOW)


def test_half_written_files_go_when_nobody_can_still_write_on_them(pushed):
    (pushed / "tmp").mkdir(exist_ok=True)
    for name in ("tmp/old", "tmp/young", ".adreg.db.seal.0123", ".adreg.db.before-m009.12345678.partial"):
        (pushed / name).write_bytes(b"x")
        if "young" not in name:
            os.utime(pushed / name, (1, 1))
    assert collect(pushed).unlinked == 3
    assert [path.name for path in (pushed / "tmp").iterdir()] == ["young"]


def test_a_clean_up_killed_anywhere_leaves_a_clean_registry(pushed, tmp_path):
    dice = random.Random(5)
    ended, usual = 0, time_of(partial(collect, pushed))
    for trial in range(25):
        name = f"gone{trial}"
        push(pushed, small_adapter(tmp_path / f"x{trial}", 100 + trial), name)
        with opened(pushed) as registry:
            registry.adapters.remove(name)
        orphan(pushed, f"{trial:064x}")
        policy = GcPolicy(0, 0, empty_trash=trial % 3 == 0)
        ended += run_and_kill(partial(collect, pushed, policy), dice.uniform(0, 1.2 * usual))
        check(pushed)
    assert ended < 25
    collect(pushed, GcPolicy(0, 0, empty_trash=True))
    check(pushed, notes=0)
    assert versions(pushed) == [2, 1]
    with opened(pushed) as registry:
        kept = {digest for (digest,) in registry.db.execute("select digest from version_file").fetchall()}
    assert {f"sha256:{path.name}" for path in (pushed / "blobs").rglob("*") if path.is_file()} == kept


def test_four_pushing_processes_lose_nothing_to_clean_ups_without_grace(home, tmp_path):
    folders = {
        (who, turn): small_adapter(tmp_path / f"{who}-{turn}", turn, f"{who} {turn}") for who in range(4) for turn in range(8)
    }
    push(home, folders[0, 0], "first")

    def pusher(who):
        for turn in range(8):
            for _ in range(20):
                try:
                    push(home, folders[who, turn], f"voice{who}", "prod")
                    break
                except ConflictError:
                    continue
            else:
                raise AdregError(f"{who} never got {turn} in")

    def cleaner():
        deadline = time.monotonic() + 60
        while not (tmp_path / "stop").exists() and time.monotonic() < deadline:
            collect(home, GcPolicy(0, 0, empty_trash=True))

    def reader():
        while not (tmp_path / "stop").exists():
            check(home)

    beside = [spawn(cleaner), spawn(cleaner), spawn(reader)]
    pushers = [spawn(partial(pusher, who)) for who in range(4)]
    assert [wait(child) for child in pushers] == [0] * 4
    (tmp_path / "stop").touch()
    assert [wait(child) for child in beside] == [0] * 3
    check(home)
    assert [versions(home, f"voice{who}") for who in range(4)] == [list(range(8, 0, -1))] * 4
