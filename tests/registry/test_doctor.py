"""Doctor says what is unusual, and only that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from adreg.registry.store.database import transaction
from adreg.registry.upkeep.doctor import check_filesystem, doctor
from adreg.registry.upkeep.machine import check_machine, check_sqlite
from adreg.settings import Settings
from tests.registry.soak.builders import opened, push, small_adapter

OF_THIS_MACHINE = ("space", "file system", "umask", "clock")


@pytest.fixture
def pushed(home, tmp_path):
    push(home, small_adapter(tmp_path / "one", 1), "voice")
    return home


def look(home, environment=None):
    return {check.name: check for check in doctor(Settings(home), environment or {})}


def unusual(home, environment=None):
    found = look(home, environment).items()
    return {name: check.state for name, check in found if check.state != "ok" and name not in OF_THIS_MACHINE}


def execute(home, statement, values=()):
    with opened(home) as registry, transaction(registry.db):
        registry.db.execute(statement, values)


def test_a_new_registry_lacks_only_its_first_check_and_backup(pushed):
    before = sorted(path for path in pushed.rglob("*"))
    assert unusual(pushed) == {"fsck": "warn", "backup": "warn"}
    assert sorted(path for path in pushed.rglob("*")) == before
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for name in ("fsck", "backup"):
        execute(pushed, "insert into meta values (?, ?)", [name, moment])
    assert unusual(pushed) == {}
    execute(pushed, "update meta set value = '2026-01-01T00:00:00Z' where key = 'fsck'")
    assert unusual(pushed) == {"fsck": "warn"}


def test_no_registry_is_made_by_looking(tmp_path):
    assert look(tmp_path / "none")["registry"].state == "ok"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("version", "state", "words"),
    [
        ((3, 36, 0), "bad", "strict"),
        ((3, 40, 1), "ok", "rollback journal"),
        ((3, 44, 6), "ok", "3.44.6"),
        ((3, 50, 6), "ok", "rollback journal"),
        ((3, 51, 3), "ok", "3.51.3"),
    ],
)
def test_sqlite_is_judged_by_its_known_bugs(version, state, words):
    check = check_sqlite(version)
    assert check.state == state and words in check.text
    assert ("rollback" in check.text) == (words == "rollback journal")


@pytest.mark.parametrize(
    ("kind", "state"), [("ext4", "ok"), ("tmpfs", "ok"), ("nfs4", "warn"), ("fuse.sshfs", "warn"), ("unknown", "warn")]
)
def test_a_file_system_that_is_not_known_to_be_of_this_machine_is_unusual(kind, state):
    assert check_filesystem(kind).state == state


def test_a_database_that_was_changed_or_does_not_open_is_bad(pushed):
    (pushed / "adreg.db.seal").write_text("b3:00\n")
    assert look(pushed)["seal"].state == "bad"
    (pushed / "adreg.db").write_bytes(b"rubbish" * 1000)
    assert look(pushed)["database"].state == "bad"


def test_a_newer_schema_is_told(pushed):
    execute(pushed, "insert into _sqlite_migrations (migration_set, name, applied_at) values ('adreg', 'm999_future', 'x')")
    assert "newer" in look(pushed)["database"].text


def test_a_history_from_the_future_and_lost_blobs_are_told(pushed):
    execute(pushed, "insert into event (at, adapter_id, verb, detail) values ('2999-01-01T00:00:00Z', 1, 'push', '{}')")
    execute(pushed, "update blob set state = 'missing'")
    found = unusual(pushed)
    assert (found["history"], found["blobs"]) == ("warn", "bad")


def test_permissions_that_let_others_in_are_told(pushed):
    pushed.chmod(0o777)
    (pushed / "tokens.json").write_text("{}")
    (pushed / "tokens.json").chmod(0o644)
    found = unusual(pushed)
    assert (found["home"], found["tokens"]) == ("warn", "bad")
    pushed.chmod(0o755)
    (pushed / "tokens.json").chmod(0o600)
    assert not {"home", "tokens"} & set(unusual(pushed))
    os.chown(pushed, 12345, -1)
    assert unusual(pushed)["home"] == "warn"


@pytest.mark.parametrize(("mask", "state"), [(0o022, "ok"), (0o077, "ok"), (0o000, "warn"), (0o777, "bad")])
def test_the_umask_is_judged_and_left_as_it_is(mask, state):
    before = os.umask(mask)
    try:
        checks = {check.name: check for check in check_machine({})}
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert checks["umask"].state == state


def test_the_environment_is_told_and_an_open_endpoint_is_unusual(pushed):
    loopback = {"HF_ENDPOINT": "http://127.0.0.1:8000", "ADREG_HOME": str(pushed)}
    assert look(pushed, loopback)["HF_ENDPOINT"].state == "ok"
    assert look(pushed, {"HF_ENDPOINT": "http://127.0.0.1.evil.example"})["HF_ENDPOINT"].state == "warn"
    assert look(pushed, {"ADREG_HOME": "here"})["ADREG_HOME"].state == "warn"


def test_a_read_only_file_system_is_bad(pushed):
    made = subprocess.run(["mount", "--bind", pushed, pushed], capture_output=True)
    if made.returncode:
        pytest.skip("a read-only mount needs root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", pushed], check=True)
        assert look(pushed)["home"].state == "bad" and look(pushed)["seal"].state == "ok"
    finally:
        subprocess.run(["umount", "--lazy", pushed], check=True)


def run(*words):
    command = [sys.executable, "-c", "import sys; from adreg.cli.app import main; sys.argv[0] = 'adreg'; main()", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_exits_with_1_only_when_something_is_bad(pushed):
    fine = run("doctor", "--json")
    assert fine.returncode == 0 and {check["state"] for check in json.loads(fine.stdout)} == {"ok", "warn"}
    assert run("doctor", "-q").stdout.split() == ["fsck", "backup"]
    (pushed / "adreg.db").write_bytes(b"rubbish" * 1000)
    bad = run("doctor")
    assert bad.returncode == 1 and "adreg fsck" in bad.stdout and "Traceback" not in bad.stderr
