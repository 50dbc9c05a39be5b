"""The checkpoint that a run goes on from, and whether it may: what changed since, and how many processes there are now.

Knows what a checkpoint says of itself, not how a run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adreg.errors import ConflictError, UnsupportedError
from adreg.train.loop.checkpoint import Checkpoint, newest_checkpoint
from adreg.train.loop.identity import differences
from adreg.train.loop.world import spread
from adreg.train.record.record import now

if TYPE_CHECKING:
    from adreg.formats.bases.checkpoint import Checkpoint as Base
    from adreg.train.config import TrainConfig
    from adreg.train.record.telling import Telling
    from adreg.train.run import TrainRequest

WITHOUT_EFFECT = ("classifier_dropout", "summary_first_dropout")  # of heads that no language model has


def resumed(
    request: TrainRequest, own: Mapping[str, Any], world: Mapping[str, Any], base: Base, telling: Telling
) -> Checkpoint | None:
    """The checkpoint to go on from. Raises `ConflictError` where it is of another run, unless forced to.

    The rows of each step and their mean loss are the same for every number of processes, so another number changes sums by
    rounding alone, and is recorded; dropout is drawn by each process for its own rows, and is refused.
    """
    if request.resume_from is None:
        return None
    found = newest_checkpoint(request.resume_from, telling.warn)
    changed = differences(found.state["identity"], own)
    other = [f"{name} was {found.state[name]} and is {value}" for name, value in world.items() if _differs(found, name, value)]
    drawn = dropouts(request.config, base.config) if _differs(found, "processes", world["processes"]) else []
    if changed and not request.force:
        raise ConflictError(
            f"the checkpoint {found.folder.name} was made otherwise: {'; '.join(changed)}",
            "undo the change, or resume with --force and have it recorded",
        )
    if drawn and not request.force:
        was = found.state["processes"]
        raise ConflictError(
            f"the checkpoint {found.folder.name} is of {_processes(was)}, and {_processes(world['processes'])} would draw "
            f"other dropout: {', '.join(drawn)}",
            f"resume with --devices {was}, or with --force and have it recorded",
        )
    telling.know(resumed=[*telling.record.resumed, {"at": now(), "step": found.step, "changed": [*changed, *other]}])
    return found


def check_state(request: TrainRequest) -> None:
    """Raise `UnsupportedError` for what needs the optimizer's whole state where DeepSpeed keeps it in parts of its own."""
    config = request.config
    kept = (request.run_folder and config.save.every) or config.eval.early_stop or request.resume_from
    if spread() == "DEEPSPEED" and kept:
        instead = "--set save.every=null, no eval.early_stop, no --resume"
        raise UnsupportedError("keeping or resuming the state of a DeepSpeed run", instead)


def dropouts(config: TrainConfig, base: Mapping[str, Any]) -> list[str]:
    """The settings of run and base that drop something at random, each as `name is value`."""
    found = {"lora.dropout": config.lora.dropout} if config.method == "lora" else {}
    found |= {name: value for name, value in base.items() if "drop" in name and name not in WITHOUT_EFFECT}
    return [f"{name} is {value}" for name, value in found.items() if isinstance(value, int | float) and value > 0]


def _differs(found: Checkpoint, name: str, value: Any) -> bool:
    """Whether the checkpoint says so; those of earlier versions do not say."""
    return name in found.state and found.state[name] != value


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"
