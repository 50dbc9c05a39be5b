"""`adreg train --devices`: this command in several processes, and what a person is told of those that nobody sees."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adreg.cli.output import print_message
from adreg.cli.terminal import clean, coloured, styled
from adreg.errors import UsageError

if TYPE_CHECKING:
    from adreg.train.launch.crew import Ending

SHOWN = 30  # lines of what a process said


def launch_options(devices: int | None, accelerate: str | None) -> str:
    """The options as a person types them behind a command; empty without any."""
    told = ["--accelerate", accelerate] if accelerate else []
    told += ["--devices", str(devices)] if devices else []
    return f" {shlex.join(told)}" if told else ""


def reads_stdin(*files: list[str] | None) -> bool:
    """Whether rows come from standard input."""
    return any("-" in (names or []) for names in files)


def train_together(devices: int | None, accelerate: str | None, words: Sequence[str], stdin: bool) -> None:
    """Run `adreg WORDS` in the processes that the profile says; ends this one as they ended."""
    from adreg.train.launch.member import is_launched
    from adreg.train.launch.processes import run_together
    from adreg.train.launch.profile import read_profile

    if is_launched():
        raise UsageError("this process is one of several already", "leave out --devices and --accelerate under a launcher")
    profile = read_profile(accelerate, devices)
    content = sys.stdin.buffer.read() if stdin else None
    command = [sys.executable, "-P", "-m", "adreg", *words]  # -P: files of this folder are no modules
    ending = run_together(command, profile, content)
    if ending.rank is not None:
        _tell(ending, profile.total)
    raise SystemExit(ending.code)


def _tell(ending: Ending, total: int) -> None:
    """Who failed, and what it said."""
    for line in ending.told.splitlines()[-SHOWN:]:
        print_message(f"  | {clean(line)}")
    how = f"was killed by {signal.Signals(ending.killed).name}" if ending.killed else f"ended with exit code {ending.code}"
    error = styled("Error:", "bold red", coloured(sys.stderr))
    print_message(f"{error} the process of rank {ending.rank}, of {total} that trained together, {how}; so did the training")
