"""A training as `accelerate launch` starts it, in each of several processes. `spread`: FSDP2 on CPUs, as on GPUs."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from adreg.train.config import check_config
from adreg.train.record.record import StepLoss
from adreg.train.record.recorder import NoRecorder
from adreg.train.run import TrainRequest, train


def spread_on_cpus() -> None:
    """accelerate shards on GPUs only, though PyTorch does so on CPUs: let it."""
    import accelerate.state
    from accelerate.utils import DistributedType

    create = accelerate.state.AcceleratorState.__init__

    def as_on_gpus(self: Any, *arguments: Any, fsdp_plugin: Any = None, **named: Any) -> None:
        create(self, *arguments, fsdp_plugin=fsdp_plugin, **named)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    accelerate.state.AcceleratorState.__init__ = as_on_gpus


class Stopping(NoRecorder):
    """Sends this process, the first one, a signal when it is told of step `at`."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, step: StepLoss) -> None:
        if step.step == self.at:
            signal.raise_signal(signal.SIGTERM)


def main(base: Path, data: Path, place: Path, how: str, stop: int) -> None:
    if how == "spread":
        spread_on_cpus()
    values = json.loads((place / "settings.json").read_text())
    config = check_config({**values, "data": {"train": [str(data)], "eval": 0.2}})
    run = place / "run"
    resume = run if run.exists() else None
    train(TrainRequest(base, "tiny", {}, config, place / "out", run, resume), recorder=Stopping(stop))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
