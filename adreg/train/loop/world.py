"""The processes that train together, one where there is only this one. Knows no model."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.errors import UnsupportedError

if TYPE_CHECKING:
    from adreg.train.loop.job import Job


def is_first() -> bool:
    """Whether this process is the one that writes and tells; known before torch is imported."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def in_turn(home: Path) -> Iterator[None]:
    """One process of the launch after the other: the first registers what all need, and the others find it."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    home.mkdir(parents=True, exist_ok=True)
    with (home / "launch.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def take_device() -> None:
    """Let this process have the GPU of its own number, where `accelerate launch` gave it one."""
    import torch

    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def check_launch(accelerator: Any, job: Job) -> None:
    """Raise `UnsupportedError` for a launch that accelerate would not carry out here, or that cannot keep what is asked."""
    kind = str(accelerator.distributed_type.value)
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" and kind != name:
            raise UnsupportedError(f"{name} without GPUs", "launch with the profile ddp")
    if kind == "DEEPSPEED" and ((job.folder and job.save.every) or job.eval.early_stop or job.resume):
        raise UnsupportedError("keeping or resuming the state of a DeepSpeed run", "set save.every=null and no eval.early_stop")


class World:
    """What the processes of a run tell each other, through accelerate."""

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.process, self.processes = accelerator.process_index, accelerator.num_processes

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """The values of every process, in the processes' order; all of them have to ask."""
        if self.processes == 1:
            return [list(values)]
        import torch

        own = torch.tensor([values], dtype=torch.float64, device=self.accelerator.device)
        found: list[list[float]] = self.accelerator.gather(own).tolist()
        return found

    def sums(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes; all of them have to ask."""
        return [sum(column) for column in zip(*self.gather(values), strict=True)]


class Through:
    """A wrapped model that is called through its wrapper and otherwise is the model itself."""

    def __init__(self, wrapper: Any, model: Any) -> None:
        self._wrapper, self._model = wrapper, model

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._wrapper(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
