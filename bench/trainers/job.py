"""What a trainer's process is told and what it tells back, as JSON files. Knows no trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Lora:
    """The adapter that every trainer of a workload trains; without dropout, which is the faster way for the peers too."""

    r: int
    alpha: int
    targets: str | list[str]


@dataclass(frozen=True)
class Job:
    """`rows` is a JSON Lines file, seen once in steps of `batch` rows; `scratch` an empty folder that goes afterwards."""

    base: Path
    rows: Path
    batch: int
    lora: Lora
    scratch: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def result(self) -> Path:
        return self.scratch / "result.json"

    def write(self) -> Path:
        path = self.scratch / "job.json"
        path.write_text(json.dumps(asdict(self), default=str))
        return path


def read_job(path: str) -> Job:
    told = json.loads(Path(path).read_text())
    places = {name: Path(told[name]) for name in ("base", "rows", "scratch")}
    return Job(**{**told, **places, "lora": Lora(**told["lora"])})


@dataclass(frozen=True)
class Trained:
    """One run: `seconds` from its first step's begin to its last step's end, `cpu` what all its threads computed in them,
    `loaded` the seconds from the process's start to that begin. `learned` counts tokens whose loss was learned from, without
    padding; `peak` is the most resident memory, in bytes.
    """

    seconds: float
    cpu: float
    loaded: float
    steps: int
    rows: int
    learned: int
    trainable: int
    peak: int
    versions: Mapping[str, str]

    @property
    def speed(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


@dataclass(frozen=True)
class Prepared:
    """One preparation of `rows` rows, from the file to token ids with labels."""

    seconds: float
    rows: int
    learned: int

    @property
    def speed(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


def middle(runs: Sequence[Trained | Prepared]) -> Trained | Prepared:
    """The run of the median time: what is told of several."""
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
