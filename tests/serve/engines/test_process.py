"""Engines as processes: their last words are told, and nothing that they started is left, whoever dies first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import pytest

from adreg.errors import EngineFailed
from adreg.serve.engines.process import EngineProcess, Launch, answers, free_port

FAMILY = """
import os, signal, subprocess, sys, time
sleeper = "import os, signal, sys, time; {deaf}open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", sleeper, "{folder}/grandchild"], start_new_session={apart})
{deaf}
print("loading", flush=True)
open("{folder}/child", "w").write(str(os.getpid()))
time.sleep(60)
"""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
HTTP = (
    "import http.server, sys; http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind='127.0.0.1')"
)
OWNER = """
import os, sys, time
from pathlib import Path
from queue import SimpleQueue
from adreg.serve.engines.process import EngineProcess, Launch
EngineProcess(Launch("family", (sys.executable, "-c", {script!r}), os.environ, Path({log!r}), stop_seconds=1))
time.sleep(60)
"""


def launched(script: str, folder: Path, *words: str, seconds: float = 10) -> EngineProcess:
    command = (sys.executable, "-c", script, *words)
    return EngineProcess(Launch("engine", command, os.environ, folder / "engine.log", seconds, stop_seconds=1))


def pids(folder: Path) -> list[int]:
    """Those of the child and the grandchild, once they run."""
    wait_until(lambda: all((folder / name).exists() and (folder / name).read_text() for name in ("child", "grandchild")))
    return [int((folder / name).read_text()) for name in ("child", "grandchild")]


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def lives(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return not Path(f"/proc/{pid}/stat").exists() or ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


@pytest.mark.parametrize("deaf", ["", DEAF], ids=["willing", "deaf to asking"])
@pytest.mark.parametrize("apart", [False, True], ids=["in its session", "in a session of its own"])
def test_stopping_ends_the_engine_and_its_children(tmp_path: Path, apart: bool, deaf: str) -> None:
    with launched(FAMILY.format(folder=tmp_path, apart=apart, deaf=deaf), tmp_path) as engine:
        family = pids(tmp_path)
        assert all(map(lives, family))
    assert not any(map(lives, family))
    assert not engine.alive and engine.failure is None


def test_a_killed_owner_leaves_no_engine(tmp_path: Path) -> None:
    script = FAMILY.format(folder=tmp_path, apart=True, deaf=DEAF)
    with subprocess.Popen([sys.executable, "-c", OWNER.format(script=script, log=str(tmp_path / "log"))]) as owner:
        family = pids(tmp_path)
        owner.kill()
    wait_until(lambda: not any(map(lives, family)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_killed_keeper_takes_the_engine_along(tmp_path: Path) -> None:
    with launched(FAMILY.format(folder=tmp_path, apart=False, deaf=DEAF), tmp_path) as engine:
        child, grandchild = pids(tmp_path)
        os.kill(engine._keeper.pid, signal.SIGKILL)
        wait_until(lambda: not lives(child))
        assert engine.failure and str(engine.failure) == "engine was ended by SIGKILL"
        os.kill(grandchild, signal.SIGKILL)


def test_an_engine_that_does_not_start_is_told_of_in_its_own_words(tmp_path: Path) -> None:
    script = "import sys; print('\\x1b[31mno room\\x1b[0m for\\x07 weights'); sys.exit('lines ' * 3)"
    with launched(script, tmp_path) as engine, pytest.raises(EngineFailed) as told:
        engine.wait_ready(lambda: False)
    assert str(told.value) == "engine ended with status 1"
    assert set(told.value.said) == {"no room for weights", "lines lines lines"}
    assert told.value.log == tmp_path / "engine.log"


def test_a_command_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    missing = EngineProcess(Launch("engine", (str(tmp_path / "vllm"),), os.environ, tmp_path / "engine.log"))
    with missing, pytest.raises(EngineFailed, match="ended with status 127") as told:
        missing.wait_ready(lambda: False)
    assert told.value.said == (f"{tmp_path / 'vllm'} cannot be run: No such file or directory",)


def test_an_engine_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with launched(FAMILY.format(folder=tmp_path, apart=False, deaf=""), tmp_path, seconds=0.5) as engine:
        family = pids(tmp_path)
        with pytest.raises(EngineFailed, match="was not ready after 0 seconds") as told:
            engine.wait_ready(lambda: False)
    assert told.value.said == ("loading",) and not any(map(lives, family))


def test_an_engine_that_dies_is_heard_of_and_one_that_is_stopped_is_not(tmp_path: Path) -> None:
    port, heard = free_port(), SimpleQueue[EngineFailed]()
    with launched(HTTP, tmp_path, str(port)) as stopped:
        stopped.wait_ready(lambda: answers(f"http://127.0.0.1:{port}", "/"))
        stopped.watch(heard.put)
    assert not answers(f"http://127.0.0.1:{port}", "/")
    with launched("import sys, time; print('out of memory', flush=True); time.sleep(0.3); sys.exit(3)", tmp_path) as engine:
        engine.watch(heard.put)
        failure = heard.get(timeout=20)
    assert str(failure) == "engine ended with status 3" and failure.said == ("out of memory",)
