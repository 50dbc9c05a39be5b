"""Runs work in a forked child, one system call at a time: the child can be killed, or refused by the disk, at any of them.

The calls counted as steps are those that change files. Source: ptrace(2); the numbers from linux/unistd.h.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import select
import signal
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

TRACEME, POKEUSER, SYSCALL, SETOPTIONS, SYSCALL_INFO = 0, 6, 24, 0x4200, 0x420E
OPTIONS = 0x1 | 0x8 | 0x100000  # TRACESYSGOOD, TRACECLONE, EXITKILL
WALL = 0x40000000
INFO_BYTES, INFO_ENTRY = 88, 1
ORIG_RAX, RAX = 15 * 8, 10 * 8
CHANGES = {
    "x86_64": {1: "write", 18: "pwrite", 20: "writev", 74: "fsync", 75: "fdatasync", 76: "truncate", 77: "ftruncate",
               82: "rename", 83: "mkdir", 84: "rmdir", 86: "link", 87: "unlink", 88: "symlink", 90: "chmod", 91: "fchmod",
               258: "mkdir", 263: "unlink", 264: "rename", 265: "link", 266: "symlink", 268: "chmod", 285: "fallocate",
               316: "rename", 326: "copy_file_range", 2: "open", 257: "openat"},
    "aarch64": {34: "mkdir", 35: "unlink", 36: "symlink", 37: "link", 38: "rename", 45: "truncate", 46: "ftruncate",
                47: "fallocate", 52: "fchmod", 53: "chmod", 56: "openat", 64: "write", 66: "writev", 68: "pwrite",
                82: "fsync", 83: "fdatasync", 276: "rename", 285: "copy_file_range"},
}  # fmt: skip
OPENING = {"open": 1, "openat": 2}  # where their flags are
BY_HANDLE = ("write", "writev", "pwrite", "ftruncate", "fsync", "fdatasync")
PATHS = {"x86_64": {82: (0, 1), 87: (0,), 263: (1,), 264: (1, 3), 316: (1, 3)}, "aarch64": {35: (1,), 38: (1, 3), 276: (1, 3)}}


@dataclass
class Outcome:
    """What became of the work: the `steps` it reached, whether it returned, the error it raised.

    `files` are those that each step of undisturbed work is about, as far as they are known.
    """

    steps: list[str] = field(default_factory=list)
    files: list[tuple[str, ...]] = field(default_factory=list)
    acknowledged: bool = False
    error: str = ""
    killed: bool = False


@functools.cache
def can_trace() -> bool:
    """Whether this machine lets a process trace its child."""
    if sys.platform != "linux" or platform.machine() not in CHANGES:
        return False
    try:
        return bool(traced(lambda: os.close(os.open("/dev/null", os.O_WRONLY | os.O_CREAT))).steps)
    except OSError:
        return False


def can_refuse() -> bool:
    """Whether single system calls can be made to fail here."""
    return platform.machine() == "x86_64" and can_trace()


def traced(
    work: Callable[[], object],
    kill_at: int | None = None,
    refuse_at: int | None = None,
    error: int = 0,
    by: signal.Signals = signal.SIGKILL,
) -> Outcome:
    """Carry out `work` in a child; send it a signal just before step `kill_at`, or let step `refuse_at` fail with `error`."""
    read, write = os.pipe()
    child = _fork(work, write)
    os.close(write)
    outcome = Outcome()
    _Tracer(child, outcome, kill_at, refuse_at, error, by).follow()
    _note_answer(outcome, read)
    return outcome


def killed_after(work: Callable[[], object], seconds: float) -> Outcome:
    """Carry out `work` in a child and kill it after a time, wherever it is then."""
    read, write = os.pipe()
    child = _fork(work, write, trace=False)
    os.close(write)
    select.select([read], [], [], seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    outcome = Outcome(killed=os.WIFSIGNALED(status))
    _note_answer(outcome, read)
    return outcome


def _fork(work: Callable[[], object], answer: int, trace: bool = True) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns about the test runner's other threads
        child = os.fork()
    if child == 0:
        _carry_out(work, answer, trace)
    return child


def _carry_out(work: Callable[[], object], answer: int, trace: bool) -> NoReturn:
    try:
        if trace:
            os.setpgid(0, 0)
            _ptrace(TRACEME, 0, 0, None)
            os.kill(os.getpid(), signal.SIGSTOP)
        work()
        os.write(answer, b"done")
    except BaseException as error:  # noqa: BLE001 - the parent decides what it means
        os.write(answer, f"{type(error).__name__}: {error}".encode())
    os._exit(0)


def _note_answer(outcome: Outcome, read: int) -> None:
    answer = os.read(read, 4096)
    os.close(read)
    outcome.acknowledged = answer == b"done"
    outcome.error = "" if outcome.acknowledged else answer.decode()


@dataclass
class _Tracer:
    child: int
    outcome: Outcome
    kill_at: int | None
    refuse_at: int | None
    error: int
    by: signal.Signals
    refused: set[int] = field(default_factory=set)

    def follow(self) -> None:
        """Let the child run from system call to system call until it is gone."""
        os.waitpid(self.child, WALL)
        _ptrace(SETOPTIONS, self.child, 0, OPTIONS)
        _ptrace(SYSCALL, self.child, 0, 0)
        while True:
            thread, status = os.waitpid(-self.child, WALL)
            if not os.WIFSTOPPED(status):
                if thread == self.child:
                    self.outcome.killed = os.WIFSIGNALED(status)
                    return
                continue
            passed_on = os.WSTOPSIG(status)
            if passed_on == signal.SIGTRAP | 0x80:
                self._look(thread)
                passed_on = 0
            elif status >> 16 or passed_on in (signal.SIGSTOP, signal.SIGTRAP):
                passed_on = 0
            if not self.outcome.killed:
                _ptrace(SYSCALL, thread, 0, passed_on)

    def _look(self, thread: int) -> None:
        """Count the system call that `thread` enters if it changes files; kill or refuse where that is due."""
        buffer = ctypes.create_string_buffer(INFO_BYTES)
        _ptrace(SYSCALL_INFO, thread, INFO_BYTES, buffer)
        kind, number, *arguments = struct.unpack_from("=B23xQ6Q", buffer.raw)
        if kind != INFO_ENTRY:
            if thread in self.refused:
                self.refused.discard(thread)
                _ptrace(POKEUSER, thread, RAX, -self.error)
            return
        name = CHANGES[platform.machine()].get(number)
        if name is None or (name in OPENING and not arguments[OPENING[name]] & os.O_CREAT):
            return
        self.outcome.steps.append(name)
        if self.kill_at is None and self.refuse_at is None:
            self.outcome.files.append(_files(thread, name, number, arguments))
        if len(self.outcome.steps) - 1 == self.kill_at:
            self.outcome.killed = self.by == signal.SIGKILL
            os.kill(self.child, self.by)
        elif len(self.outcome.steps) - 1 == self.refuse_at:
            self.refused.add(thread)
            _ptrace(POKEUSER, thread, ORIG_RAX, -1)


def _files(thread: int, name: str, number: int, arguments: list[int]) -> tuple[str, ...]:
    """The files that a system call which is being entered is about."""
    if name in BY_HANDLE:
        return (str(Path(f"/proc/{thread}/fd/{arguments[0]}").readlink()),)
    return tuple(_text(thread, arguments[at]) for at in PATHS[platform.machine()].get(number, ()))


def _text(thread: int, address: int) -> str:
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return os.fsdecode(memory.read(4096).partition(b"\0")[0])


def _ptrace(request: int, process: int, address: int, data: object) -> None:
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    call.restype = ctypes.c_long
    if call(request, process, address, data) == -1:
        code = ctypes.get_errno()
        if not (code == 3 and request == SYSCALL):  # ESRCH: killed meanwhile
            raise OSError(code, os.strerror(code))
