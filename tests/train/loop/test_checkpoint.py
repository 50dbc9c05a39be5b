"""Checkpoints on disk: whole or not there, and never taken when they are not what was written."""

from __future__ import annotations

import json

import pytest
import torch

from adreg.errors import IntegrityError, NotFoundError, StorageError
from adreg.train.loop.checkpoint import (
    ADAPTER,
    MANIFEST,
    STATE,
    newest_checkpoint,
    prune,
    read_checkpoint,
    steps,
    write_checkpoint,
)
from tests.registry.soak.apart import apart, small_disk

WEIGHTS = {ADAPTER: {"a.lora_A": torch.arange(12.0).view(3, 4), "a.lora_B": torch.ones(2, dtype=torch.bfloat16)}}


def write_three(run):
    for step in (2, 4, 10):
        write_checkpoint(run, step, WEIGHTS, {"course": {"losses": [step]}})


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


SPOILT = {
    "a flipped bit": lambda folder: flip(folder / ADAPTER),
    "a cut file": lambda folder: (folder / ADAPTER).write_bytes(b""),
    "a lost file": lambda folder: (folder / STATE).unlink(),
    "a lost manifest": lambda folder: (folder / MANIFEST).unlink(),
    "a foreign file": lambda folder: (folder / "optimizer.pt").write_bytes(b""),
    "a manifest of nothing": lambda folder: (folder / MANIFEST).write_text("[]"),
    "a name outside": lambda folder: (folder / MANIFEST).write_text(json.dumps({"files": {"../../x": "0"}})),
}


def test_what_is_read_is_what_was_written(tmp_path):
    write_three(tmp_path)
    found = newest_checkpoint(tmp_path, pytest.fail)
    assert (found.step, found.state["course"]) == (10, {"losses": [10]})
    read = found.tensors(ADAPTER)
    assert {name: value.dtype for name, value in read.items()} == {"a.lora_A": torch.float32, "a.lora_B": torch.bfloat16}
    assert all(torch.equal(read[name], value) for name, value in WEIGHTS[ADAPTER].items())
    assert found.tensors("best.safetensors") == {}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_one_is_passed_over_with_a_warning_for_the_one_before(tmp_path, how):
    write_three(tmp_path)
    SPOILT[how](tmp_path / "checkpoint-10")
    warnings: list[str] = []
    assert newest_checkpoint(tmp_path, warnings.append).step == 4
    assert len(warnings) == 1 and "checkpoint-10" in warnings[0]
    with pytest.raises(IntegrityError, match="checkpoint-10"):
        read_checkpoint(tmp_path / "checkpoint-10")


def test_half_written_ones_are_none_and_go_with_the_older_ones(tmp_path):
    with pytest.raises(NotFoundError):
        newest_checkpoint(tmp_path, pytest.fail)
    write_three(tmp_path)
    (tmp_path / ".checkpoint-11.0a1b2c3d.partial").mkdir()
    (tmp_path / "tensorboard").mkdir()
    assert newest_checkpoint(tmp_path, pytest.fail).step == 10
    prune(tmp_path, 2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4", "tensorboard"]
    prune(tmp_path, 0)
    assert steps(tmp_path) == []


def test_a_full_disk_leaves_the_one_before_whole_and_nothing_else(tmp_path):
    def fill_it():
        with small_disk(tmp_path) as resize:
            write_checkpoint(tmp_path, 1, WEIGHTS, {})
            resize(200_000)
            with pytest.raises(StorageError, match="No space left"):
                write_checkpoint(tmp_path, 2, {ADAPTER: {"large": torch.zeros(100_000)}}, {})
            return newest_checkpoint(tmp_path, pytest.fail).step, [entry.name for entry in tmp_path.iterdir()]

    assert apart(fill_it) == "(1, ['checkpoint-1'])"
