"""What kind of file system a folder is on: some lie about locks, and some copy without copying."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

LOCAL = frozenset(
    (
        "apfs",
        "bcachefs",
        "btrfs",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "hfs",
        "jfs",
        "overlay",
        "ramfs",
        "reiserfs",
        "tmpfs",
        "xfs",
        "zfs",
    )
)
FICLONE = 0x40049409  # linux/fs.h: share the blocks of one file with another, copied when one of them is written


def filesystem_of(path: Path) -> str:
    """The type of the file system that holds `path`, such as `ext4` or `nfs4`; `unknown` where the system does not tell."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.exists():
        return "unknown"
    device = _existing(path).stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return "unknown"


def is_local(path: Path) -> bool:
    """Whether `path` is known to be on a disk of this machine, where locks and shared memory work."""
    return filesystem_of(path) in LOCAL


def reflink(source: BinaryIO, target: BinaryIO) -> bool:
    """Make `target` share the blocks of `source`; False where the file system cannot."""
    try:
        import fcntl

        fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
    except (ImportError, OSError):
        return False
    return True


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
