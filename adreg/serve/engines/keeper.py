"""Runs one command and outlives neither it nor the process that asked for it. Knows the standard library alone.

Started as a script: the seconds between asking and forcing, then the command. Its standard input is a pipe that nobody
writes to: when that ends, whoever held the other end is done or dead, and the command is stopped with all its descendants.
Ends with the command's status, 128 and the number for a signal, as shells do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

SET_DEATH_SIGNAL, SET_SUBREAPER = 1, 36  # PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER of <linux/prctl.h>
LEFT_SECONDS = 2.0
ON_LINUX = sys.platform == "linux"


def main(patience: float, command: list[str]) -> int:
    """Run `command` to its end; the status to end with."""
    for sign in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)
    _prctl(SET_SUBREAPER, 1)
    try:
        # no other thread runs yet, so what runs between fork and exec is safe
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_as_child)  # noqa: PLW1509
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error.strerror}\n")
        return 127
    threading.Thread(target=_stop_at_the_end, args=(child, patience), daemon=True).start()
    status = child.wait()
    _end_what_is_left(child.pid)
    return status if status >= 0 else 128 - status


def _as_child() -> None:
    """In the command's process, before it is one: the signals are its own again, and it dies with the keeper."""
    for sign in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(sign, signal.SIG_DFL)
    _prctl(SET_DEATH_SIGNAL, signal.SIGKILL)


def _stop_at_the_end(child: subprocess.Popen[bytes], patience: float) -> None:
    os.read(sys.stdin.fileno(), 1)
    child.terminate()
    try:
        child.wait(patience)
    except subprocess.TimeoutExpired:
        child.kill()


def _end_what_is_left(group: int) -> None:
    """End the descendants that outlived the command; the orphans among them have become children of this process."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + LEFT_SECONDS
        _send(sign, group)
        while time.monotonic() < until:
            if not _is_left(group):
                return
            time.sleep(0.02)


def _send(sign: signal.Signals | int, group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, sign)
    for pid in _children():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, sign)


def _is_left(group: int) -> bool:
    """Whether a process of the group or a child is left; children that have ended are taken leave of."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return bool(_children())
    return True


def _children() -> list[int]:
    """The processes whose parent this one is now."""
    if not ON_LINUX:
        return []
    threads = Path("/proc/self/task").glob("*/children")
    return [int(pid) for thread in threads for pid in thread.read_text().split()]


def _prctl(option: int, value: int) -> None:
    if ON_LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
