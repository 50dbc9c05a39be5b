"""Several processes train as one does: the losses of every step, and the adapter up to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from safetensors.torch import load_file

from adreg.train.config import check_config
from adreg.train.run import TrainRequest, train
from tests.train.conftest import TOPICS, chat, write_rows

PROFILES = Path(str(resources.files("adreg.train.loop") / "profiles"))
SETTINGS = {
    "lora": {"r": 4},
    "train": {"epochs": 2, "lr": 5e-3, "batch": 5, "micro_tokens": 60, "precision": "fp32"},
    "eval": {"every": 4, "early_stop": 9, "max_new_tokens": 1},
    "save": {"every": 3},
}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", [chat(f"What about {topic}?", f"Aye, {topic}, " * 3) for topic in TOPICS * 2])


def launched(profile: str, base: Path, rows: Path, place: Path, how: str = "plain", stop: int = 0) -> int:
    """Two processes on this machine; returns how they ended."""
    place.mkdir(exist_ok=True)
    (place / "settings.json").write_text(json.dumps(SETTINGS))
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(PROFILES / f"{profile}.yaml")]
    script = ["-m", "tests.train.loop.together", str(base), str(rows), str(place), how, str(stop)]
    command = [*accelerate, "--num_processes", "2", "--main_process_port", "0", *script]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    return subprocess.run(command, env=environment, timeout=200).returncode


def alone(base: Path, rows: Path, place: Path) -> Path:
    config = check_config({**SETTINGS, "data": {"train": [str(rows)], "eval": 0.2}})
    return train(TrainRequest(base, "tiny", {}, config, place / "alone")).folder


def assert_alike(one: Path, other: Path) -> None:
    records = [json.loads((folder / "adreg.json").read_text()) for folder in (one, other)]
    losses = [[step[1] for step in record["losses"]] for record in records]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    looks = [[look[1] for look in record["evaluations"]] for record in records]
    assert looks[1] == pytest.approx(looks[0], rel=1e-5)
    for name in ("tokens", "trained_tokens", "rows", "steps"):
        assert records[0][name] == records[1][name]
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (one, other)]
    for name, value in weights[0].items():
        assert (weights[1][name] - value).abs().max() <= 1e-5 * value.abs().max(), name


def test_two_processes_over_gloo_give_what_one_gives(tiny_llama, rows, tmp_path):
    assert launched("ddp", tiny_llama, rows, tmp_path / "two") == 0
    assert_alike(alone(tiny_llama, rows, tmp_path), tmp_path / "two" / "out")


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "how"), [("ddp", "plain"), ("fsdp2", "spread")])
def test_two_processes_are_stopped_and_resumed_as_one_is(tiny_llama, rows, tmp_path, profile, how):
    assert launched(profile, tiny_llama, rows, tmp_path / "two", how, stop=2) != 0
    assert [entry.name for entry in (tmp_path / "two" / "run").iterdir()] == ["checkpoint-3"]
    assert launched(profile, tiny_llama, rows, tmp_path / "two", how) == 0
    assert_alike(alone(tiny_llama, rows, tmp_path), tmp_path / "two" / "out")


@pytest.mark.slow
def test_sharding_without_gpus_is_refused(tiny_llama, rows, tmp_path):
    assert launched("fsdp2", tiny_llama, rows, tmp_path / "two") != 0
    assert not (tmp_path / "two" / "out").exists()


@pytest.mark.parametrize("profile", ["ddp", "fsdp2", "zero2", "zero3"])
def test_accelerate_takes_every_profile(profile):
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
    assert load_config_from_file(str(PROFILES / f"{profile}.yaml")).distributed_type == kinds[profile]
