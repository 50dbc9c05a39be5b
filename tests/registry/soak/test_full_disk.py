"""The disk is full after so many more pages, or no file may grow beyond so many bytes."""

from __future__ import annotations

import resource
import shutil
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from adreg.errors import RemoteError, StorageError
from tests.registry.soak.apart import apart, small_disk, used
from tests.registry.soak.judging import judged, still_works
from tests.registry.soak.operations import Operation, Place, some
from tests.registry.soak.scale import ALL, amount, chosen

PAGE = 4096
SIZES = 80
LIMITS = [
    0,
    1,
    100,
    511,
    512,
    513,
    1000,
    4095,
    4096,
    5000,
    8192,
    9000,
    12288,
    20000,
    40000,
    65536,
    100_000,
    150_000,
    176_128,
    190_000,
]


def attempted(operation: Operation, place: Place) -> bool:
    """Whether it was done; any error but those about the disk escapes."""
    try:
        operation.work(place)
    except (StorageError, RemoteError):
        return False
    return True


def outcome(operation: Operation, place: Place, done: bool, before: object, after: object) -> str:
    change = judged(operation, place, done, before, after)
    assert done or change != "whole" or operation.in_parts
    still_works(place)
    return "done" if done else f"refused, {change}"


def afterwards(operation: Operation, start: Place, root: Path) -> object:
    place = start.again(root)
    operation.work(place)
    return operation.seen(place)


def on_small_disks(operation: Operation, start: Place, disk: Path, after: object) -> dict[str, int]:
    before, counts = operation.seen(start), Counter[str]()
    with small_disk(disk) as resize:
        for pages in {0, *chosen(SIZES, amount(ALL, 2), operation.name)}:
            place = start.again(disk / "trial")
            resize(used(disk) + pages * PAGE)
            done = apart(partial(attempted, operation, place)) == "True"  # its leases die with the process
            resize(100 << 20)
            counts[outcome(operation, place, done, before, after)] += 1
            shutil.rmtree(place.root)
    return dict(counts)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
@pytest.mark.parametrize("operation", some("push", "alias", "gc", "backup", "base add"))
def test_a_disk_that_fills_up_changes_nothing(operation, tmp_path):
    start, disk = operation.place(tmp_path / "start"), tmp_path / "disk"
    disk.mkdir()
    after = afterwards(operation, start, tmp_path / "undisturbed")
    counts = apart(partial(on_small_disks, operation, start, disk, after))
    print(f"{operation.name}, disk full after 0 to {SIZES - 1} pages: {counts}")
    assert "refused" in counts


def under_a_limit(operation: Operation, place: Place, limit: int) -> bool:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return attempted(operation, place)


@pytest.mark.parametrize("operation", some("push", "backup"))
def test_a_limit_on_the_size_of_files_changes_nothing(operation, tmp_path):
    start = operation.place(tmp_path / "start")
    after = afterwards(operation, start, tmp_path / "trial")
    before, counts = operation.seen(start), Counter[str]()
    for index in chosen(len(LIMITS), amount(ALL, 2), operation.name):
        place = start.again(tmp_path / "trial")
        done = apart(partial(under_a_limit, operation, place, LIMITS[index])) == "True"
        counts[outcome(operation, place, done, before, after)] += 1
    print(f"{operation.name}, files of at most {LIMITS[0]} to {LIMITS[-1]} bytes: {dict(counts)}")
