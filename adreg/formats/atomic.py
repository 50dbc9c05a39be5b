"""Output that appears whole or not at all: written beside its place, synced, then renamed into it."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adreg.errors import ConflictError, StorageError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)


def sync(path: Path) -> None:
    """fsync a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into a `StorageError` about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK:
            raise StorageError(path, os.strerror(error.errno)) from error
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")


@contextmanager
def atomic_file(path: Path, within: Path | None = None) -> Iterator[Path]:
    """Yield a path to write to, beside `path` or `within` a folder of the same disk; on success it replaces `path`, on any
    failure it is gone."""
    partial = _beside(within / path.name if within else path)
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            sync(partial)
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder; on success it becomes `path`, on any failure it is gone. `path` must not exist yet."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConflictError(f"{path} already exists", "choose another place, or remove it first")
    partial = _beside(path)
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
            yield partial
            for inner in partial.rglob("*"):
                sync(inner)
            sync(partial)
            partial.replace(path)
            sync(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
