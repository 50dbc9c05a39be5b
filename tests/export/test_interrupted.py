"""A merge that is killed or runs out of disk: nothing but a whole result ever stands under its final name."""

from __future__ import annotations

import hashlib
import random
import shutil
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from adreg.errors import StorageError
from adreg.export.plan import plan_merge
from adreg.export.run import run_merge
from adreg.progress import SILENT
from tests.export.merging import request
from tests.registry.soak.apart import apart, small_disk, used
from tests.registry.soak.scale import amount, chosen
from tests.registry.soak.tracing import can_trace, killed_after, traced

OUTPUTS = {"GGUF file": ("out.gguf", "gguf"), "GGUF folder": ("out", "gguf"), "checkpoint": ("out", "safetensors")}
KILLS, SIZES = 201, 20
outputs = pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS.keys())


def merge_into(place, base, adapter, output, progress=SILENT):
    name, target = output
    run_merge(plan_merge(request(base, adapter, output=place / name, target=target, name="merged")), progress)


def seen(place: Path) -> dict[str, str]:
    """The SHA-256 of every file that has its final name."""
    files = (file for file in place.rglob("*") if file.is_file())
    named = {str(file.relative_to(place)): file for file in files}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in named.items() if ".partial" not in name}


def acceptable(whole: dict[str, str]) -> list[dict[str, str]]:
    """Nothing, everything, and the GGUF file to which its Modelfile has still to come."""
    return [{}, whole, {name: digest for name, digest in whole.items() if name == "out.gguf"}]


@outputs
def test_a_kill_leaves_a_whole_result_or_none(output, tiny_llama, llama_adapter, tmp_path):
    (tmp_path / "whole").mkdir()
    began = time.monotonic()
    merge_into(tmp_path / "whole", tiny_llama, llama_adapter, output)
    duration, whole = time.monotonic() - began, seen(tmp_path / "whole")
    dice, counts, place = random.Random(str(output)), Counter[str](), tmp_path / "place"
    work = partial(merge_into, place, tiny_llama, llama_adapter, output)
    for _ in range(amount(KILLS // len(OUTPUTS), 5)):
        place.mkdir()
        outcome = killed_after(work, dice.uniform(0, 1.2 * duration))
        assert outcome.killed or outcome.acknowledged, outcome.error
        found = seen(place)
        assert found == whole if outcome.acknowledged else found in acceptable(whole)
        counts["whole" if found else "none"] += 1
        shutil.rmtree(place)
    print(f"{output}, killed at any moment: {dict(counts)}")


@outputs
@pytest.mark.skipif(not can_trace(), reason="processes may not be traced here")
def test_a_kill_before_any_change_of_a_file_leaves_a_whole_result_or_none(output, tiny_llama, llama_adapter, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    work = partial(merge_into, place, tiny_llama, llama_adapter, output)
    undisturbed = traced(work)
    assert undisturbed.acknowledged, undisturbed.error
    whole, counts = seen(place), Counter[str]()
    for step in chosen(len(undisturbed.steps), amount(KILLS, 4), output):
        shutil.rmtree(place)
        place.mkdir()
        assert traced(work, kill_at=step).killed
        found = seen(place)
        assert found in acceptable(whole)
        counts["whole" if found else "none"] += 1
    print(f"{output}, killed before one of {len(undisturbed.steps)} steps: {dict(counts)}")


class Filling:
    """A progress that leaves the disk `room` more bytes once the first block is written."""

    def __init__(self, disk, room, resize):
        self.disk, self.room, self.resize, self.begun = disk, room, resize, False

    @contextmanager
    def task(self, title, total=None, unit=""):
        yield self

    def advance(self, amount=1, note=""):
        if not self.begun:
            with suppress(PermissionError):  # more was written meanwhile: the next block is as good
                self.resize(max(used(self.disk) + self.room, 1))  # 0 would be no limit
                self.begun = True


def on_disks_that_fill(disk, base, adapter, output):
    counts = Counter[str]()
    with small_disk(disk) as resize:
        merge_into(disk, base, adapter, output)
        whole, size = seen(disk), used(disk)
        for part in chosen(SIZES, amount(SIZES, 4), output):
            for file in disk.iterdir():
                shutil.rmtree(file) if file.is_dir() else file.unlink()
            resize(100 << 20)
            try:
                merge_into(disk, base, adapter, output, Filling(disk, part * size // SIZES, resize))
            except StorageError:
                assert list(disk.iterdir()) == []
                counts["nothing"] += 1
            else:
                assert seen(disk) == whole
                counts["whole"] += 1
    return dict(counts)


@outputs
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_disk_that_fills_up_leaves_nothing(output, tiny_llama, llama_adapter, tmp_path):
    counts = apart(partial(on_disks_that_fill, tmp_path, tiny_llama, llama_adapter, output))
    print(f"{output}, disk full after a share of the output: {counts}")
    assert "nothing" in counts
