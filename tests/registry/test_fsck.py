"""Damage of every kind is found, and what can be mended is mended."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest

from adreg.errors import ConflictError, IntegrityError, UsageError
from adreg.references import parse_reference
from adreg.registry.push import plan_push
from adreg.registry.store.database import transaction
from adreg.registry.upkeep.fsck import fsck
from adreg.registry.upkeep.reading import ReadData, StoredBlob, parse_read_data
from adreg.registry.upkeep.repair import repair
from tests.registry.soak.builders import opened, small_adapter, small_base

ALL = ReadData()
STEP = 1200


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A registry with versions, aliases, a base, a run, an artifact and a removed adapter; sealed and found clean."""
    from adreg.registry.artifacts import Derived

    where = tmp_path_factory.mktemp("filled")
    home = where / "home"
    with opened(home) as registry:
        registry.bases.add(str(small_base(where / "base")), "tiny")
        registry.runs.add({"id": "run-0001", "outcome": "finished", "started": "2026-11-21T05:00:00Z"})
        for seed in range(3):
            plan = plan_push(small_adapter(where / f"v{seed}", seed))
            version = registry.adapters.push(plan, "voice", "prod", None).version
        registry.artifacts.add([(version, 1.0)], Derived("gguf", "/x.gguf", f"sha256:{'0' * 64}", 5, {"target": "gguf"}, None))
        registry.adapters.push(plan_push(where / "v0"), "old", None, None)
        registry.adapters.remove("old")
        reference = parse_reference("voice:3")
        registry.labels.tag(reference, ["lang=en", "size=7", "good"])
        registry.labels.note(reference, "better at fog")
        registry.labels.describe("voice", "keeps a lighthouse")
        registry.labels.yank(parse_reference("voice:2"), "babbles")
        assert fsck(registry, ALL).problems == ()
    return home


@pytest.fixture
def home(filled, tmp_path, monkeypatch):
    copy = shutil.copytree(filled, tmp_path / "home")
    monkeypatch.setenv("ADREG_HOME", str(copy))
    return copy


def look(home, read=None):
    with opened(home) as registry:
        return fsck(registry, read)


def mend(home, refetch=lambda *_: False, read=None):
    with opened(home) as registry:
        return repair(registry, fsck(registry, read), refetch)


def blob_of(home, path="adapter_model.safetensors"):
    with opened(home) as registry:
        query = "select digest from version_file where path = ? order by version_id limit 1"
        digest = registry.db.execute(query, [path]).fetchone()[0]
        return digest, registry.blobs.path(digest)


def test_every_flipped_byte_and_every_cut_of_the_database_is_found(home):
    good, seal = (home / "adreg.db").read_bytes(), (home / "adreg.db.seal").read_bytes()
    places = [*range(100), *range(100, len(good), STEP)]
    damaged = []
    for number, place in enumerate(places):
        damaged.append(bytes([*good[:place], good[place] ^ 1 << number % 8, *good[place + 1 :]]))
    cuts = [good[:length] for length in range(0, len(good), 4099)]
    damaged += [*cuts, good[:-1], good + b"\0", good + bytes(4096), bytes(len(good)), b"not a database" * 99]
    missed = []
    for number, raw in enumerate(damaged):
        (home / "adreg.db").write_bytes(raw)
        (home / "adreg.db.seal").write_bytes(seal)
        report = look(home)
        if report.clean or not report.problems[0].message:
            missed.append(number)
    assert len(places) >= 200 and missed == []
    (home / "adreg.db").write_bytes(good)
    (home / "adreg.db.seal").write_bytes(seal)
    assert look(home).clean


def test_a_cut_database_is_found_without_its_seal_too(home):
    good = (home / "adreg.db").read_bytes()
    for length in range(0, len(good), 4099):
        (home / "adreg.db").write_bytes(good[:length])
        (home / "adreg.db.seal").unlink(missing_ok=True)
        assert not look(home).clean, length


def test_a_database_that_is_gone_is_found_and_never_replaced_by_an_empty_one(home):
    (home / "adreg.db").unlink()
    assert [problem.kind for problem in look(home).problems] == ["database"]
    with opened(home) as registry, pytest.raises(IntegrityError, match="gone"):
        registry.adapters.all()
    assert not (home / "adreg.db").exists()


def test_every_flipped_bit_and_every_other_length_of_a_blob_is_found(home):
    digest, path = blob_of(home)
    path.chmod(0o644)
    good = path.read_bytes()
    damaged = [bytes([*good[:at], good[at] ^ 1 << at % 8, *good[at + 1 :]]) for at in range(0, len(good), 11)]
    damaged += [good[:length] for length in range(0, len(good), 97)] + [good + b"\0", good + good]
    for raw in damaged:
        path.write_bytes(raw)
        assert [problem.subject for problem in look(home, ALL).problems] == [digest]
    path.write_bytes(good)
    assert look(home, ALL).clean


@pytest.mark.parametrize("replaced", ["folder", "link", "gone"])
def test_a_blob_that_is_no_plain_file_is_found_without_reading(home, replaced):
    digest, path = blob_of(home)
    aside = path.with_suffix(".aside")
    path.rename(aside)
    if replaced == "folder":
        path.mkdir()
    elif replaced == "link":
        path.symlink_to(aside)
    assert [problem.subject for problem in look(home).problems] == [digest]


WRONG_ROWS = {
    "version": ["update version set summary = '{' where number = 2",
                "delete from version_file where path = 'adapter_config.json'",
                "update version set size = size + 1 where number = 1", "update version set number = 9 where number = 3",
                "update version set digest = 'sha256:' || hex(zeroblob(32)) where number = 1",
                "update version_file set path = '../../etc/passwd' where path = 'adapter_config.json'",
                "update version set weights_id = 'b3:1' where number = 1"],
    "history": ["update event set detail = '{}' where id = 2", "delete from event where id = 2",
                "update event set at = 'now' where id = 3"],
    "alias": ["insert into adapter (id, name, created_at) values (9, 'other', '');"
              "insert into alias (adapter_id, name, version_id, updated_at) values (9, 'prod', 1, '')",
              "update alias set name = '7'"],
    "base": ["update base set card = '[]'", "update base set weights_id = 'b3:2'", "update base set leaves = 'x'"],
    "run": ["update run set record = '{\"id\": \"other\"}'", "update run set record = '[1'"],
    "artifact": ["update artifact set recipe = 'null'", "update artifact set digest = '../x'"],
    "adapter": ["update adapter set name = '../voice' where id = 1"],
    "tag": ["insert into tag values (1, '12')"],
    "event": ["update event set detail = 'x' where id = 1"],
    "database": ["pragma foreign_keys = off; delete from version where number = 2"],
    "search": ["delete from search where rowid = 1", "delete from search_data where id > 10"],
    "schema": ["create trigger mine after insert on event begin delete from alias; end", "drop index version_blob",
               "create table mine (x)"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "statement"), [(kind, each) for kind, listed in WRONG_ROWS.items() for each in listed])
def test_a_row_that_makes_no_sense_is_found_though_sqlite_is_content(home, kind, statement):
    connection = sqlite3.connect(home / "adreg.db")
    triggers = connection.execute(
        "select sql from sqlite_master where type = 'trigger' and tbl_name not like 'search%'"
    ).fetchall()
    connection.executescript("drop trigger event_is_immutable; drop trigger event_stays; drop trigger version_is_immutable; "
                             "drop trigger version_file_is_immutable; pragma foreign_keys = off;" + statement)  # fmt: skip
    for (sql,) in triggers:
        connection.execute(sql)
    connection.commit()
    connection.close()
    (home / "adreg.db.seal").unlink()
    assert kind in {problem.kind for problem in look(home).problems}


def test_what_an_interrupted_change_leaves_is_a_note_and_no_damage(home):
    (home / "adreg.db.seal").unlink()
    (home / "tmp").mkdir(exist_ok=True)
    (home / "tmp" / "half").write_bytes(b"x")
    (home / ".adreg.db.seal.12345678").write_text("b3:")
    orphan = home / "blobs" / "sha256" / "ab" / ("ab" * 32)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x")
    with opened(home) as registry, transaction(registry.db):
        gone = f"{os.uname().nodename}:999999999"
        registry.db.execute("insert into lease (owner, purpose, taken_at, expires_at) values (?, 'push', 1, 9e9)", [gone])
    (home / "adreg.db.seal").unlink()
    report = look(home)
    assert report.clean and len(report.notes) == 4
    assert (home / "adreg.db.seal").exists() and orphan.exists()


def test_repair_sets_damage_aside_and_fetches_it_again_by_digest(home):
    digest, path = blob_of(home)
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(b"damaged" + good[7:])

    def liar(wanted, size, target):
        target.write_bytes(bytes(size))
        return True

    report = mend(home, liar, ALL)
    assert not report.clean and "voice:1" in report.problems[0].message
    assert not path.exists() and len(list((home / "quarantine").iterdir())) == 1
    assert not look(home).clean

    def remote(wanted, size, target):
        assert (wanted, size) == (digest, len(good))
        target.write_bytes(good)
        return True

    path.write_bytes(bytes(len(good)))
    assert not look(home).clean  # what was set aside is read again before it is believed
    assert mend(home, remote).clean
    assert {problem.repaired for problem in mend(home).problems} == set()
    assert path.read_bytes() == good and look(home, ALL).clean
    assert any(file.read_bytes().startswith(b"damaged") for file in (home / "quarantine").iterdir())


def test_a_missing_blob_comes_back_from_the_trash(home):
    _, path = blob_of(home)
    trash = home / "trash" / "1700000000"
    trash.mkdir(parents=True)
    path.rename(trash / path.name)
    assert mend(home).clean and look(home, ALL).clean


def test_only_repair_believes_a_database_that_was_changed_from_outside_and_says_so(home):
    connection = sqlite3.connect(home / "adreg.db")
    connection.execute("update adapter set description = 'mine' where id = 1")
    connection.commit()
    connection.close()
    assert [problem.kind for problem in look(home).problems] == ["seal"]
    assert not look(home).clean
    with opened(home) as registry, pytest.raises(IntegrityError, match="changed from outside"):
        registry.adapters.remove("voice")
    report = mend(home)
    assert report.clean and "what was changed is not known" in report.problems[0].message
    assert look(home).problems == ()


def test_repair_never_seals_rows_that_make_no_sense(home):
    connection = sqlite3.connect(home / "adreg.db")
    connection.execute("update base set card = '[]'")
    connection.commit()
    connection.close()
    assert not mend(home).clean and not look(home).clean
    assert {problem.kind for problem in look(home).problems} == {"seal", "base"}


def test_repair_leaves_a_damaged_structure_to_a_backup(home):
    raw = bytearray((home / "adreg.db").read_bytes())
    raw[4096 * 3 : 4096 * 6] = bytes(4096 * 3)
    (home / "adreg.db").write_bytes(raw)
    report = mend(home)
    assert not report.clean and "adreg restore" in report.notes[-1]
    assert (home / "adreg.db").read_bytes() == bytes(raw)


def test_a_command_that_meets_a_damaged_page_says_so_in_a_sentence(home):
    connection = sqlite3.connect(home / "adreg.db")
    pages = [page for (page,) in connection.execute("select rootpage from sqlite_master where name in ('adapter', 'version')")]
    connection.close()
    raw = bytearray((home / "adreg.db").read_bytes())
    for page in pages:
        raw[4096 * (page - 1) : 4096 * page] = b"\x05" * 4096
    (home / "adreg.db").write_bytes(raw)
    told = run("ls")
    assert told.returncode == 5 and told.stderr.startswith("Error:") and "Traceback" not in told.stderr


def test_repair_indexes_the_search_again_and_removes_what_is_old(home):
    with opened(home) as registry, transaction(registry.db):
        registry.db.execute("delete from search where rowid = 1")
    (home / "tmp").mkdir(exist_ok=True)
    for name, age in (("old", 3), ("young", 0)):
        (home / "tmp" / name).write_bytes(b"x")
        os.utime(home / "tmp" / name, (time.time() - age * 86400,) * 2)
    assert mend(home).clean and look(home).clean
    assert [file.name for file in (home / "tmp").iterdir()] == ["young"]


def test_the_parts_of_a_reading_cover_every_blob_once_and_shares_take_turns(home):
    rows = [StoredBlob(f"sha256:{number * 0x9E3779B97F4A7C15 % 2**64:064x}"[:71], 1) for number in range(500)]
    rows = [StoredBlob("sha256:" + row.digest[-8:] * 8, 1) for row in rows]
    parts = [ReadData(part, 7).choose(rows) for part in range(1, 8)]
    assert sorted(row.digest for part in parts for row in part) == sorted(row.digest for row in rows)
    total = look(home, ALL).counts["read"]
    with opened(home) as registry, transaction(registry.db):
        registry.db.execute("update blob set verified_at = null")
    half = parse_read_data("50%")
    read = [look(home, half).counts["read"] for _ in range(2)]
    with opened(home) as registry:
        assert registry.db.execute("select count(*) from blob where verified_at is null").fetchone()[0] == 0
    assert all(total / 2 <= count < total for count in read)
    for text in ("", "0/3", "4/3", "0%", "101%", "1/0", "some", "1/2/3"):
        with pytest.raises(UsageError):
            parse_read_data(text)


def test_a_newer_schema_is_no_damage(home):
    connection = sqlite3.connect(home / "adreg.db")
    connection.execute("insert into _sqlite_migrations (migration_set, name, applied_at) values ('adreg', 'm999_future', 'x')")
    connection.commit()
    connection.close()
    with pytest.raises(ConflictError, match="newer adreg"):
        look(home)


def test_a_registry_that_does_not_exist_is_clean_and_stays_so(tmp_path):
    assert look(tmp_path / "nothing").clean
    assert not (tmp_path / "nothing").exists()


def run(*words):
    command = [sys.executable, "-c", "import sys; from adreg.cli.app import main; sys.argv[0] = 'adreg'; main()", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_prints_damage_and_exits_with_5(home):
    clean = run("fsck", "--read-data")
    assert clean.returncode == 0 and "sound" in clean.stderr and clean.stdout == ""
    digest, path = blob_of(home)
    path.unlink()
    (home / "adreg.db.seal").write_text("b3:0\n")
    found = run("fsck", "--json", "--read-data=1/1")
    assert found.returncode == 5
    assert {problem["kind"] for problem in json.loads(found.stdout)["problems"]} == {"seal", "blob"}
    told = run("fsck", "--repair")
    assert told.returncode == 5 and digest in told.stdout and "Traceback" not in told.stderr
    (home / "adreg.db").write_bytes(b"\0" * 4096)
    hopeless = run("fsck", "--repair")
    assert hopeless.returncode == 5 and "DAMAGE" in hopeless.stdout and "adreg restore" in hopeless.stderr
    assert run("fsck", "--read-data=9/2").returncode == 2
