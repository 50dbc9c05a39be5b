"""kill -9 at random steps and a resume give the bytes of a run that nobody killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.conftest import TOPICS, chat, write_rows


def trials(base: Path, place: Path, count: int, seed: int) -> list[tuple[list[int], bool]]:
    rows = write_rows(place / "rows.jsonl", [chat(f"What about {topic}?", f"Aye, {topic}. " * 2) for topic in TOPICS * 2])
    command = [sys.executable, "-m", "tests.train.loop.killing", str(base), str(rows), str(place), str(count), str(seed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stderr
    found: list[tuple[list[int], bool]] = json.loads(done.stdout)["trials"]
    return found


def test_killed_runs_end_with_the_same_bytes(tiny_llama, tmp_path):
    found = trials(tiny_llama, tmp_path, 1, seed=1)
    assert len(found) == 1 and all(equal for _, equal in found), found


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_many_killed_runs_end_with_the_same_bytes(tiny_llama, tmp_path):
    found = trials(tiny_llama, tmp_path, 25, seed=2)
    assert len(found) == 25 and all(equal for _, equal in found), found
