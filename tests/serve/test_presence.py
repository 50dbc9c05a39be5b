"""Servers find each other by files: readable by their owner alone, and worth nothing once their process is dead."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from adreg.serve.server.presence import FOLDER, announced, running

ANNOUNCE = """
import sys, time
from pathlib import Path
from adreg.serve.server.presence import announced
with announced(Path(sys.argv[1]), "smollm2", None, "http://127.0.0.1:8000"):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_server_is_found_while_it_runs_and_by_its_owner_only(tmp_path: Path) -> None:
    assert running(tmp_path) == []
    with announced(tmp_path, "smollm2", "s3cret", "http://[::1]:8000"):
        (found,) = running(tmp_path)
        (file,) = (tmp_path / FOLDER).iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (found.pid, found.url, found.base, found.key) == (os.getpid(), "http://[::1]:8000", "smollm2", "s3cret")
    assert running(tmp_path) == []
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_what_a_killed_server_left_is_no_server_and_is_cleared_away(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ANNOUNCE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout and server.stdout.readline() == b"ready\n"
        with announced(tmp_path, "other", None, "http://127.0.0.1:8001"):
            assert [found.base for found in running(tmp_path)] == ["smollm2", "other"]
            server.kill()
            server.wait()
            assert [found.base for found in running(tmp_path)] == ["other"]
            assert len(list((tmp_path / FOLDER).iterdir())) == 1
