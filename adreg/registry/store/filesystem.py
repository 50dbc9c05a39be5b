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
HERE, EXCHANGE = -100, 2  # linux/fcntl.h and linux/fs.h: AT_FDCWD, RENAME_EXCHANGE
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


def is_read_only(path: Path) -> bool:
    """Whether nobody can write on the file system that holds `path`."""
    return bool(os.statvfs(_existing(path)).f_flag & os.ST_RDONLY)


def reflink(source: BinaryIO, target: BinaryIO) -> bool:
    """Make `target` share the blocks of `source`; False where the file system cannot."""
    try:
        import fcntl

        fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
    except (ImportError, OSError):
        return False
    return True


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, which no kill can fall into; False where the system cannot. Source: renameat2(2)."""
    import ctypes

    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    return swap is not None and swap(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
