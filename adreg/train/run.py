"""One training, from a request to an adapter folder and its record. Knows the order of things, not how they are done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.errors import MissingExtra
from adreg.formats.atomic import atomic_folder
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.progress import SILENT, Progress
from adreg.train import record as records
from adreg.train.config import TrainConfig
from adreg.train.data import Prepared, prepare
from adreg.train.output import write_adapter, write_record
from adreg.train.record import HeldOut, RunRecord

if TYPE_CHECKING:
    from adreg.train.loop import StepTrainer


@dataclass(frozen=True)
class TrainRequest:
    """What to train: `base_ids` are the ids of the base's card, written to the record as they are."""

    base_folder: Path
    base_name: str
    base_ids: Mapping[str, str | None]
    config: TrainConfig
    output: Path


@dataclass(frozen=True)
class TrainResult:
    """The adapter's folder and the record that lies in it as adreg.json."""

    folder: Path
    record: RunRecord


@dataclass(frozen=True)
class _Outcome:
    """What the run itself found out."""

    trainer: StepTrainer
    trainable: int
    held_out: HeldOut
    settings: dict[str, Any]


def train(request: TrainRequest, progress: Progress = SILENT) -> TrainResult:
    """Train an adapter and write it to `request.output`, whole or not at all.

    Raises `UsageError`, `DataError` or `ConflictError` before the model is loaded where the request cannot be met,
    and `AdregError` when the loss stops being a number.
    """
    _require("torch", "transformers", "peft", "accelerate")
    began, started = time.perf_counter(), records.now()
    base = open_checkpoint(request.base_folder)
    with atomic_folder(request.output) as folder:
        data = prepare(base, request.config.data, request.config.train.seed)
        model, outcome = _run(request, data, progress)
        write_adapter(folder, model, request.base_name, base.tokenizer)
        record = _record(request, data, outcome, started, time.perf_counter() - began)
        write_record(folder, record, request.base_name)
    return TrainResult(request.output, record)


def _run(request: TrainRequest, data: Prepared, progress: Progress) -> tuple[Any, _Outcome]:
    import torch

    from adreg.train.batch import micro_batches
    from adreg.train.forward import SINGLE, choose_attention, mean_loss, shares_prefix
    from adreg.train.fused import fuse
    from adreg.train.loop import run_loop
    from adreg.train.model import load_model, trainable_parameters

    settings = request.config.train
    model = load_model(request.base_folder, request.config)
    attention = choose_attention(model, data.train)
    fused = fuse(model)
    held_out = micro_batches(data.held_out, 1 if attention == SINGLE else settings.micro_tokens, shares_prefix(model))
    before = mean_loss(model, held_out) if held_out else None
    with progress.task("train", settings.steps(len(data.train)), "step") as task:
        trainer = run_loop(model, data.train, settings, task, attention == SINGLE)
    after = mean_loss(model, held_out) if held_out else None
    taken = {
        "device": model.device.type,
        "threads": torch.get_num_threads(),
        "precision": str(model.dtype).removeprefix("torch."),
    }
    chosen = {**taken, "attention": attention, "fused_layers": fused}
    return model, _Outcome(trainer, trainable_parameters(model), HeldOut(len(data.held_out), before, after), chosen)


def _record(request: TrainRequest, data: Prepared, outcome: _Outcome, started: str, seconds: float) -> RunRecord:
    trainer = outcome.trainer
    return RunRecord(
        id=records.new_id(),
        started=started,
        finished=records.now(),
        seconds=round(seconds, 2),
        outcome="finished",
        base={"name": request.base_name, **request.base_ids},
        config=request.config.model_dump(mode="json"),
        data=[asdict(report) for report in data.reports],
        rows=len(data.train),
        seed=request.config.train.seed,
        versions=records.versions(),
        platform=records.machine(**outcome.settings),
        trainable=outcome.trainable,
        steps=len(trainer.losses),
        tokens=trainer.tokens,
        trained_tokens=trainer.learned,
        losses=trainer.losses,
        eval=outcome.held_out,
    )


def _require(*packages: str) -> None:
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(package, "train")
