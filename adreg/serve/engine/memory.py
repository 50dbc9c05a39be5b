"""A budget of bytes for keys and values, and how many bytes of this machine are free. Counts, and holds nothing."""

from __future__ import annotations

import os
from pathlib import Path

from adreg.errors import AdregError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


class MemoryBudget:
    """Bytes that may be reserved, and those that are."""

    def __init__(self, total: int) -> None:
        self.total, self.used = total, 0

    def fits(self, size: int) -> bool:
        return self.used + size <= self.total

    def reserve(self, size: int) -> None:
        """Take `size` bytes, which fit."""
        if not self.fits(size):
            raise AdregError(f"{size} bytes are more than the {self.total - self.used} that are left")
        self.used += size

    def release(self, size: int) -> None:
        self.used -= size


def free_memory() -> int:
    """Bytes that this process may still take: of the machine's, and of its container's where that has a limit."""
    free = _available()
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return min(free, max(0, int(limit) - used)) if limit.isdigit() else free


def _available() -> int:
    """What Linux calls available, which counts the page cache; elsewhere half of all memory."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024
