"""Several processes train as one does: losses and adapter up to rounding, and stopped and resumed to the same bytes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from adreg.train.config import check_config
from adreg.train.launch.profile import profile_file
from adreg.train.run import TrainRequest, train
from tests.train.conftest import TOPICS, chat, write_rows

SETTINGS: dict[str, dict[str, object]] = {
    "lora": {"r": 4},
    "train": {"epochs": 8, "lr": 5e-3, "batch": 5, "micro_tokens": 60, "precision": "fp32"},
    "eval": {"every": 4, "early_stop": 9, "max_new_tokens": 1},
    "save": {"every": 3},
}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", [chat(f"What about {topic}?", f"Aye, {topic}, " * 3) for topic in TOPICS * 2])


@pytest.fixture
def registry(tmp_path: Path, tiny_llama: Path) -> dict[str, str]:
    """The environment of commands on a registry of their own, with the base tiny in it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd()), "ADREG_HOME": str(tmp_path / "home")}
    run(environment, "base", "add", tiny_llama, "--name", "tiny")
    return environment


def run(environment: dict[str, str], *words: object, code: int = 0) -> str:
    command = [sys.executable, "-m", "adreg", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def words(rows: Path, place: Path, **changes: dict[str, Any]) -> list[object]:
    place.mkdir(exist_ok=True)
    settings = place / "settings.yaml"
    settings.write_text(json.dumps(SETTINGS | changes | {"data": {"train": [str(rows)], "eval": 0.2}}))
    return ["train", settings, "-b", "tiny", "-o", place / "out"]


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
    assert {name: value.shape for name, value in weights[0].items()} == {name: v.shape for name, v in weights[1].items()}
    for name, value in weights[0].items():
        assert (weights[1][name] - value).abs().max() <= 1e-5 * value.abs().max(), name


def stopped(environment: dict[str, str], command: list[object], number: int) -> tuple[int, str]:
    """The code and words of a command that gets a signal, in its whole group as from a terminal, when a step is told."""
    started, told = [sys.executable, "-m", "adreg", *map(str, command)], ""
    with subprocess.Popen(started, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        for line in process.stderr or ():
            if line.startswith("step ") and "step " not in told:
                os.killpg(process.pid, number)
            told += line
    return process.returncode, told


@pytest.mark.slow
def test_two_processes_stopped_and_resumed_give_what_one_gives(tiny_llama, rows, registry, tmp_path):
    code, told = stopped(registry, [*words(rows, tmp_path / "two"), "--devices", 2], signal.SIGTERM)
    assert code == 143 and "--devices 2 goes on from there" in told
    run(registry, "train", "--resume", "--devices", 2)
    assert_alike(alone(tiny_llama, rows, tmp_path), tmp_path / "two" / "out")


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["fsdp2", "zero2", "zero3"])
def test_a_model_in_parts_on_two_processes_gives_what_one_gives(profile, tiny_llama, rows, registry, tmp_path):
    if profile.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    free: dict[str, Any] = (
        {"save": {"every": None}, "eval": {**SETTINGS["eval"], "early_stop": None}} if profile.startswith("zero") else {}
    )
    run(registry, *words(rows, tmp_path / "two", **free), "--devices", 2, "--accelerate", profile)
    assert_alike(alone(tiny_llama, rows, tmp_path), tmp_path / "two" / "out")


@pytest.mark.slow
def test_a_model_in_parts_is_stopped_and_resumed_as_a_whole_one_is(tiny_llama, rows, registry, tmp_path):
    options = ["--devices", 2, "--accelerate", "fsdp2"]
    code, told = stopped(registry, [*words(rows, tmp_path / "two"), *options], signal.SIGTERM)
    assert code == 143 and "--accelerate fsdp2 --devices 2 goes on from there" in told
    run(registry, "train", "--resume", *options)
    assert_alike(alone(tiny_llama, rows, tmp_path), tmp_path / "two" / "out")


@pytest.mark.slow
def test_two_machines_train_as_one(tiny_llama, rows, registry, tmp_path):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    started = []
    for machine in (1, 0):
        file = tmp_path / f"machine-{machine}.yaml"
        file.write_text(
            "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_machines: 2\nnum_processes: 2\n"
            f"machine_rank: {machine}\nmain_process_ip: 127.0.0.1\nmain_process_port: {port}\n"
        )
        command = [sys.executable, "-m", "adreg", *map(str, words(rows, tmp_path / "two")), "--accelerate", str(file)]
        started.append(subprocess.Popen(command, env=registry, stderr=subprocess.PIPE, text=True))
    told = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert "✓ trained" in told[1] and not told[0]
    assert_alike(alone(tiny_llama, rows, tmp_path), tmp_path / "two" / "out")


@pytest.mark.slow
def test_accelerates_own_launcher_starts_them_as_well(tiny_llama, rows, registry, tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--config_file", profile_file("ddp"), "--num_processes", 2]
    command = [sys.executable, *launch, "--main_process_port", 0, "-m", "adreg", *words(rows, tmp_path / "two")]
    assert subprocess.run([*map(str, command)], env=registry, timeout=250).returncode == 0
    assert_alike(alone(tiny_llama, rows, tmp_path), tmp_path / "two" / "out")


def pairs(base: Path, rows: Path, place: Path, count: int, seed: int, *more: str) -> dict[str, Any]:
    words = [str(base), str(rows), str(place), str(count), str(seed), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "tests.train.loop.pairs", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_two_processes_killed_and_resumed_end_with_the_same_bytes(tiny_llama, rows, tmp_path):
    found = pairs(tiny_llama, rows, tmp_path, 1, 1)
    assert [equal for _, equal in found["trials"]] == [True], found


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_many_kills_and_another_number_of_processes(tiny_llama, rows, tmp_path):
    found = pairs(tiny_llama, rows, tmp_path, 12, 2, "more")
    assert len(found["trials"]) == 12 and all(equal for _, equal in found["trials"]), found
    assert_alike(tmp_path / "alone" / "out", tmp_path / "mixed" / "out")
    record = json.loads((tmp_path / "mixed" / "out" / "adreg.json").read_text())
    assert record["resumed"][0]["changed"] == ["processes was 2 and is 1"]
    assert "is of 2 processes, and one process would draw other dropout: lora.dropout is 0.1" in str(found["refused"])
    assert "resume with --devices 2, or with --force" in str(found["refused"])
