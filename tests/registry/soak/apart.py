"""Runs a function in a forked child whose limits, mounts and hooks may be changed, since they die with it."""

from __future__ import annotations

import ctypes
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000
READ_ONLY, REMOUNT, RECURSIVE, PRIVATE = 1, 32, 16384, 1 << 18
SKIP = "skip: "


@dataclass(frozen=True)
class Running:
    """A child that is at work."""

    process: int
    read: int

    def answer(self) -> str:
        """What the work returned, as text. Raises `AssertionError` with the child's traceback."""
        with os.fdopen(self.read) as answers:
            text = answers.read()
        _, status = os.waitpid(self.process, 0)
        if text.startswith(SKIP):
            pytest.skip(text.removeprefix(SKIP))
        assert status == 0, text or f"the child ended with status {status}"
        return text


def apart(work: Callable[[], object]) -> str:
    """What `work`, carried out in a child, returned, as text. Raises `AssertionError` with the child's traceback."""
    return started(work).answer()


def started(work: Callable[[], object]) -> Running:
    """Carry out `work` in a child, beside this process."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns about the test runner's other threads
        child = os.fork()
    if child == 0:
        _answer(work, write)
    os.close(write)
    return Running(child, read)


def _answer(work: Callable[[], object], write: int) -> None:
    status = 1
    try:
        answer, status = str(work()), 0
    except PermissionError as error:
        answer, status = f"{SKIP}{error}", 0
    except BaseException:  # noqa: BLE001 - the parent raises it
        answer = traceback.format_exc()
    with os.fdopen(write, "w") as answers:
        answers.write(answer)
    os._exit(status)


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[int], None]]:
    """Mount a tmpfs on `folder`, for this process only; yields how to set its size in bytes. Raises `PermissionError`."""
    user, group = os.getuid(), os.getgid()
    _call("unshare", NEW_MOUNTS | (NEW_USER if user else 0))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _call("mount", b"none", b"/", None, RECURSIVE | PRIVATE, None)
    _call("mount", b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=100m")
    yield lambda size: _call("mount", b"tmpfs", bytes(folder), b"tmpfs", REMOUNT, f"size={size}".encode())


def read_only(folder: Path) -> None:
    """Let nobody write to the file system that `small_disk` mounted on `folder`."""
    _call("mount", b"tmpfs", bytes(folder), b"tmpfs", REMOUNT | READ_ONLY, None)


def used(folder: Path) -> int:
    """The bytes in use on the file system of `folder`."""
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        code = ctypes.get_errno()
        raise PermissionError(code, f"{name}: {os.strerror(code)}")
