"""The processes that train together, one where there is only this one. Knows no model."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adreg.errors import ProcessLost, UnsupportedError, UsageError

BROKEN = ("gloo", "Gloo", "NCCL", "nccl", "Connection closed by peer", "Connection reset by peer", "Broken pipe")


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


def processes() -> int:
    """How many processes train together; known before torch is imported."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def spread() -> str | None:
    """What spreads the model's weights over the processes, None where each has them whole."""
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true":
            return name
    return None


def take_device() -> None:
    """Let this process have the GPU of its own number, where one of several was started. Raises `UsageError`."""
    import torch

    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > gpus:
            raise UsageError(f"{here} processes, and {gpus} GPUs", f"--devices {gpus}, or CUDA_VISIBLE_DEVICES= for CPUs alone")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def check_launch(accelerator: Any) -> None:
    """Raise `UnsupportedError` for a launch that accelerate would not carry out here."""
    kind = str(accelerator.distributed_type.value)
    if (wanted := spread()) and kind != wanted:
        raise UnsupportedError(f"{wanted} here, where accelerate makes it {kind}", "take the profile ddp")


def spread_on_cpus(accelerator: Any) -> None:
    """Let FSDP2 shard on CPUs too: PyTorch does, and accelerate 1.15 takes note of the wish on GPUs only."""
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state = accelerator.state
    if spread() == "FSDP" and state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, FullyShardedDataParallelPlugin()


@contextmanager
def all_alive(lost: Callable[[], ProcessLost]) -> Iterator[None]:
    """What a collective raises when its other side is gone becomes `lost()`."""
    try:
        yield
    except RuntimeError as error:
        if processes() > 1 and any(sign in str(error) for sign in BROKEN):
            raise lost() from error
        raise


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

    def wait(self) -> None:
        """Until every process has come here."""
        if self.processes > 1:
            self.accelerator.wait_for_everyone()

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
