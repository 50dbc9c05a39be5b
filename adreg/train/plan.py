"""What a run would be before it is: parameters, tokens, steps, memory, time, and what looks odd. Trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adreg.formats.bases.checkpoint import Checkpoint
from adreg.progress import SILENT, Progress
from adreg.train.advice import advice
from adreg.train.assembly import assemble
from adreg.train.config import TrainConfig
from adreg.train.data.prepare import Prepared, prepare
from adreg.train.loop.job import Course, Job
from adreg.train.loop.plan import lengths_of, plan_steps, tokens_of
from adreg.train.model.checks import checked_base
from adreg.train.record.environment import available_memory, memory
from adreg.train.run import TrainRequest, check_request
from adreg.train.steps.memory import activation_bytes

PROBED = 2
TRAINED_BYTES = 16  # float32 weight, gradient and AdamW's two moments
RUNTIME = 450_000_000  # Python, torch and transformers
LOOK = 3  # a look at a row costs a third of learning from it


@dataclass(frozen=True)
class Probe:
    """Two real steps: how many tokens a second the second of them took, and the memory of the process after it, in bytes."""

    loss: float
    tokens_per_s: float
    memory: int | None


@dataclass(frozen=True)
class TrainPlan:
    """A run to be. `tokens` are those of an epoch, `all_tokens` those of all steps; `memory` are bytes by what takes them.

    `seconds` is known after a probe; `available` is what the machine has free, where it says so.
    """

    config: dict[str, Any]
    data: list[dict[str, Any]]
    trainable: int | None
    total: int | None
    rows: int
    held_out: int
    steps: int
    tokens: int
    learned_share: float
    all_tokens: int
    precision: str
    memory: dict[str, int]
    available: int | None
    probe: Probe | None
    seconds: float | None
    warnings: tuple[str, ...]

    @property
    def needed(self) -> int:
        """The bytes of memory that the run would take."""
        return sum(self.memory.values())

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "needed": self.needed}


def plan_training(request: TrainRequest, with_probe: bool = True, progress: Progress = SILENT) -> TrainPlan:
    """Plan what `train` would do with `request`, and refuse what it would refuse. The model is loaded for the probe only."""
    check_request(request, output=False)
    config = request.config
    base = checked_base(request.base_folder, request.base_name, config, request.parent)
    data = prepare(base, config.data, config.train.seed, config.objective)
    plan = _without_probe(base, config, data, request.parent)
    if with_probe:
        with progress.task("two steps") as _:
            plan = _probed(plan, request, data)
    return replace(plan, warnings=tuple(advice(config, plan.rows, plan.held_out, plan.steps, data.reports, plan.trainable)))


def _without_probe(base: Checkpoint, config: TrainConfig, data: Prepared, parent: Path | None) -> TrainPlan:
    from adreg.errors import UnsupportedError
    from adreg.train.model.load import choose_dtype, count_trainable

    steps = plan_steps(data.train, config.train)
    lengths = lengths_of(data.train)
    dtype = choose_dtype(config.train.precision)
    trainable: int | None = None
    total: int | None = None
    with suppress(UnsupportedError):  # a base with its own code is counted when it is loaded
        trainable, total = count_trainable(base.config, config, parent)
    counted = sum(report.total_tokens for report in data.reports)
    return TrainPlan(
        config=config.model_dump(mode="json"),
        data=[asdict(report) for report in data.reports],
        trainable=trainable,
        total=total,
        rows=len(data.train),
        held_out=len(data.held_out),
        steps=steps.steps,
        tokens=sum(lengths),
        learned_share=sum(report.trained_tokens for report in data.reports) / max(counted, 1),
        all_tokens=round(sum(lengths) * steps.steps / steps.epoch_steps),
        precision=str(dtype).removeprefix("torch."),
        memory=_memory(base, config, lengths, dtype.itemsize, trainable or 0),
        available=available_memory(),
        probe=None,
        seconds=None,
        warnings=(),
    )


def _memory(base: Checkpoint, config: TrainConfig, lengths: Sequence[int], size: int, trainable: int) -> dict[str, int]:
    """Bytes by what takes them, for weights of `size` bytes each and rows of `lengths` tokens."""
    longest, twice = max(lengths), config.train.checkpointing == "on"
    most = min(max(longest, config.train.micro_tokens), sum(lengths))
    return {
        "base": sum(view.count for view in base.values()) * size,
        "adapter and optimizer": TRAINED_BYTES * trainable,
        "activations": activation_bytes(base.config, most, longest, size, twice),
        "runtime": RUNTIME,
    }


def _probed(plan: TrainPlan, request: TrainRequest, data: Prepared) -> TrainPlan:
    """`plan` with what two real steps say: the first warms up, the second is measured."""
    from adreg.train.loop.trainer import run_loop
    from adreg.train.model.load import parameter_groups, trainable_parameters

    config = request.config
    steps = plan_steps(data.train, config.train)
    few = [data.train[row] for step in range(min(PROBED, plan.steps)) for row in steps.rows(step)]
    made = assemble(request.base_folder, config, replace(data, train=few, held_out=()), request.parent)
    settings = config.train.model_copy(update={"max_steps": min(PROBED, plan.steps)})
    job = Job(groups=parameter_groups(made.model, config), budget=made.budget)
    course: Course = run_loop(made.model, made.objective, made.rows, settings, job)
    last = course.losses[-1]
    probe = Probe(last.loss, last.tokens_per_s, memory())
    looks = _looks(config, plan) * sum(tokens_of(row) for row in data.held_out) / LOOK
    total = sum(parameter.numel() for parameter in made.model.parameters())
    seconds = (plan.all_tokens + looks) / max(last.tokens_per_s, 1e-9)
    return replace(plan, probe=probe, seconds=seconds, trainable=trainable_parameters(made.model), total=total)


def _looks(config: TrainConfig, plan: TrainPlan) -> int:
    """How often the held-out rows are looked at: before, after, and as often as is set."""
    every, epochs = config.eval.every, plan.all_tokens / max(plan.tokens, 1)
    between = 0 if every is None else epochs if every == "epoch" else plan.steps / int(every)
    return 2 + int(between)
