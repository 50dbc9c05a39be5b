"""One clock for all trainers: transformers calls it at every step of whatever Trainer runs in this process."""

from __future__ import annotations

import importlib.metadata
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from transformers import TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS

from bench.trainers.job import Job, Trained

PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "datasets")


class Clock(TrainerCallback):  # type: ignore[misc]
    """When the first step began and the last one ended, in seconds of `time.time` and in seconds of this process's CPU."""

    def __init__(self) -> None:
        self.began = self.ended = self.cpu_began = self.cpu_ended = 0.0
        self.steps = 0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self.began:
            self.began, self.cpu_began = time.time(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended, self.cpu_ended = time.time(), time.process_time()
        self.steps += 1


def start() -> Clock:
    """A clock that every Trainer made from now on tells its steps."""
    clock = Clock()
    DEFAULT_CALLBACKS.append(clock)
    return clock


def finish(clock: Clock, job: Job, learned: int, trainable: int) -> None:
    """Write what was measured to the job's result."""
    rows = sum(1 for line in job.rows.read_text().splitlines() if line)
    result = Trained(
        seconds=clock.ended - clock.began,
        cpu=clock.cpu_ended - clock.cpu_began,
        loaded=clock.began - psutil.Process().create_time(),
        steps=clock.steps,
        rows=rows,
        learned=learned,
        trainable=trainable,
        peak=peak(),
        versions=versions(),
    )
    job.result.write_text(json.dumps(asdict(result)))


def peak() -> int:
    """The most memory that this process ever had resident, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
