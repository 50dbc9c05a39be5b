"""Trainings that are killed and resumed, each in a fork of a process that has imported everything and computed nothing."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import adreg.train
from adreg.train.config import check_config
from adreg.train.record.record import StepLoss
from adreg.train.record.recorder import NoRecorder
from adreg.train.run import TrainRequest, train

SETTINGS: dict[str, Any] = {
    "lora": {"r": 4, "dropout": 0.1},
    "train": {"epochs": 3, "lr": 5e-3, "batch": 3, "micro_tokens": 100, "schedule": "cosine", "warmup": 0.1},
    "eval": {"every": 3, "early_stop": 50, "max_new_tokens": 1},
    "save": {"every": 2, "keep": 2},
}


class Telling(NoRecorder):
    """Tells the parent of each step."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def step(self, step: StepLoss) -> None:
        os.write(self.pipe, bytes([step.step]))


def run(base: Path, data: Path, folder: Path, pipe: int) -> None:
    config = check_config({**SETTINGS, "data": {"train": [str(data)], "eval": 0.2}})
    resume = folder / "run" if (folder / "run").exists() and any((folder / "run").glob("checkpoint-*")) else None
    request = TrainRequest(base, "tiny", {"weights_id": "b3:00"}, config, folder / "out", folder / "run", resume)
    train(request, recorder=Telling(pipe))


def forked(base: Path, data: Path, folder: Path, kill_at: int | None, delay: float) -> int:
    """Run in a child and return its last step; killed `delay` seconds after it told of step `kill_at`."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        status = 1
        try:
            run(base, data, folder, write)
            status = 0
        except BaseException:  # noqa: BLE001 - a child must not come back
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    last = 0
    while told := os.read(read, 1):
        last = told[0]
        if last == kill_at:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
    os.close(read)
    _, status = os.waitpid(child, 0)
    if status not in (0, signal.SIGKILL):
        raise SystemExit(f"the child ended with status {status}")
    return last


def main(base: Path, data: Path, place: Path, trials: int, seed: int) -> None:
    """Print JSON: for each trial the steps killed at, and whether the adapter has the uninterrupted run's bytes."""
    for module in pkgutil.walk_packages(adreg.train.__path__, "adreg.train."):
        importlib.import_module(module.name)  # what a run imports, imported once
    drawn = random.Random(seed)
    steps = forked(base, data, place / "whole", None, 0)
    expected = (place / "whole" / "out" / "adapter_model.safetensors").read_bytes()
    results = []
    for trial in range(trials):
        folder, killed = place / f"trial-{trial}", []
        for _ in range(drawn.choice((1, 1, 2, 3))):
            at = drawn.randint(1, steps - 1)
            forked(base, data, folder, at, drawn.uniform(0, 0.04))
            killed.append(at)
            if (folder / "out").exists():
                break
        if not (folder / "out").exists():
            forked(base, data, folder, None, 0)
        results.append([killed, (folder / "out" / "adapter_model.safetensors").read_bytes() == expected])
        shutil.rmtree(folder)
        print(results[-1], file=sys.stderr, flush=True)
    print(json.dumps({"steps": steps, "trials": results}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
