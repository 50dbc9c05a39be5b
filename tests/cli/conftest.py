from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from adreg.cli.app import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def adreg(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command line in this process, as the console script does."""

    def run(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["adreg", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def process(home: Path) -> Callable[..., Result]:
    """Runs the command line in a process of its own."""

    def run(*words: object, **environment: str) -> Result:
        command = [sys.executable, "-m", "adreg", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)
        return Result(done.returncode, done.stdout, done.stderr)

    return run
