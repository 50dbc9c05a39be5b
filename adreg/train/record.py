"""The record of a run: what went in, on what machine, what came out. Plain data that JSON holds."""

from __future__ import annotations

import os
import platform
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

import adreg

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")


class StepLoss(NamedTuple):
    """One optimizer step: the mean loss of its learned tokens, the learning rate and the speed."""

    step: int
    loss: float
    lr: float
    tokens_per_s: float


@dataclass(frozen=True)
class HeldOut:
    """The loss for each learned token of the held-out rows; None without such rows."""

    rows: int
    base: float | None
    adapter: float | None


@dataclass(frozen=True)
class RunRecord:
    """A finished run. `asdict` of it is `adreg.json`."""

    id: str
    started: str
    finished: str
    seconds: float
    outcome: str
    base: dict[str, Any]
    config: dict[str, Any]
    data: list[dict[str, Any]]
    rows: int
    seed: int
    versions: dict[str, str]
    platform: dict[str, Any]
    trainable: int
    steps: int
    tokens: int
    trained_tokens: int
    losses: list[StepLoss]
    eval: HeldOut


def new_id() -> str:
    """A name for a run: 12 hex digits, the second it began in and four drawn ones, so that names sort by time."""
    return f"{int(time.time()):08x}{uuid.uuid4().hex[:4]}"


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """The versions that decide what a run computes."""
    return {"adreg": adreg.__version__, "python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def machine(**settings: Any) -> dict[str, Any]:
    """The platform, and the `settings` that the run took on it."""
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        **settings,
    }
