"""Actions in processes of their own, forked so that hundreds take seconds, and killed where a test wants it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable


def spawn(action: Callable[[], object]) -> int:
    """Run `action` in a forked process: its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        action()
        code = 0
    except BaseException:  # noqa: BLE001  a forked test must never return into pytest
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """The exit code of a forked process, negative for the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def time_of(action: Callable[[], object]) -> float:
    """How many seconds a forked `action` takes now, on this machine."""
    started = time.monotonic()
    assert wait(spawn(action)) == 0
    return time.monotonic() - started


def run_and_kill(action: Callable[[], object], seconds: float) -> bool:
    """Kill a forked `action` after `seconds`; whether it had ended before."""
    child = spawn(action)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    return wait(child) != -signal.SIGKILL
