"""Processes that are started together end together: with the right code, by one signal each, and none is left behind."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FIELDS = {"rank": None, "killed": None, "told": ""}


def started(how: str, place: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.train.launch.starter", how, str(place)]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen[str]) -> tuple[list[str], dict[str, object], str]:
    """What was shown, how they ended, and what stood on standard error."""
    out, err = process.communicate(timeout=60)
    lines = out.splitlines()
    return lines[:-1], ast.literal_eval(lines[-1]), err


def pids(place: Path, count: int = 2) -> list[int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = [file.read_text() for file in sorted(place.glob("*.pid"))]
        if len(found) == count and all(found):
            return [int(pid) for pid in found]
        time.sleep(0.02)
    raise AssertionError("they did not come")


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_all_get_the_input_and_only_the_leader_is_heard(tmp_path):
    shown, how, err = ended(started("ends", tmp_path))
    assert shown == ["0 of 2 read 'rows', joins None"] and err == "warning of 0\n"
    assert how == {"code": 0, **FIELDS} and len(pids(tmp_path)) == 2


def test_what_the_leader_refuses_no_other_process_is_started_for(tmp_path):
    _, how, _ = ended(started("refuses", tmp_path))
    assert how == {"code": 4, **FIELDS} and len(pids(tmp_path, 1)) == 1


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("fails", {"code": 5, "rank": 1, "killed": None, "told": "no memory left"}),
        ("dies", {"code": 1, "rank": 1, "killed": signal.SIGKILL, "told": ""}),
    ],
)
def test_one_that_fails_ends_the_other_and_is_told_with_its_rank(how, expected, tmp_path):
    _, found, _ = ended(started(how, tmp_path))
    assert found == expected and (tmp_path / "0.got").read_text() == "[15]"


def test_one_that_ends_because_all_do_leaves_the_telling_to_the_leader(tmp_path):
    assert ended(started("follows", tmp_path))[1] == {"code": 1, **FIELDS}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_each_once_and_the_second_again(number, tmp_path):
    once = started("waits", tmp_path)
    pids(tmp_path)
    once.send_signal(number)
    assert ended(once)[1] == {"code": 128 + number, **FIELDS}
    assert [(tmp_path / f"{rank}.got").read_text() for rank in (0, 1)] == [f"[{int(number)}]"] * 2
    (tmp_path / "again").mkdir()
    twice = started("stays", tmp_path / "again")
    pids(tmp_path / "again")
    twice.send_signal(number)
    time.sleep(0.3)
    twice.send_signal(number)
    assert ended(twice)[1] == {"code": 128 + number, **FIELDS}


def test_none_outlives_a_starter_that_was_killed(tmp_path):
    process = started("waits", tmp_path)
    both = pids(tmp_path)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(map(lives, both)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(lives, both)) and not list(tmp_path.glob("*.got"))
