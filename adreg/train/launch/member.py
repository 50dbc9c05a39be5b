"""What a process of a training is told by the one that started it, and tells it. Knows no training.

`adreg train --devices` starts its processes with the variables of `torch.distributed` and a few of its own; under
`accelerate launch` there are only the former, and what is meant for the starter goes nowhere.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

PROFILE, ALIVE, READY, RUN = "ADREG_PROFILE", "ADREG_STARTER_ALIVE", "ADREG_READY", "ADREG_RUN"
FOLLOWS = 75  # the exit code of a process that ended because all of them do; process 0 says why


def is_started() -> bool:
    """Whether `adreg train --devices` started this process."""
    return PROFILE in os.environ


def is_launched() -> bool:
    """Whether this process is one of several, whoever started them."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def leads() -> bool:
    """Whether this process is the first on its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def run_to_join() -> str | None:
    """The id of the run that the first process of this machine goes on with."""
    return os.environ.get(RUN)


def end_with_starter() -> None:
    """From now on, die with the process that started this one: nobody else would ever end it."""
    if ALIVE in os.environ:
        handle = int(os.environ[ALIVE])
        threading.Thread(target=_outlived, args=(handle,), daemon=True, name="starter").start()


def _outlived(handle: int) -> None:
    """Wait for the pipe's other end to be closed, which a process does by whatever death it dies."""
    os.read(handle, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def tell_ready(run: str) -> None:
    """Say that what all processes need lies ready, so that the others may come and join `run`."""
    if handle := os.environ.pop(READY, None):
        os.write(int(handle), run.encode())
        os.close(int(handle))


def take_profile() -> None:
    """Set what `accelerate launch` would set for a process by the profile. Raises `UsageError` for what it refuses."""
    file = os.environ.get(PROFILE)
    if file:
        from adreg.train.launch.accelerated import environment

        os.environ.update(environment(Path(file)))
