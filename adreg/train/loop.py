"""The training loop: transformers' Trainer, given whole steps of flattened batches. Knows no files."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from adreg.errors import AdregError
from adreg.progress import Task
from adreg.train.batch import micro_batches, token_counts
from adreg.train.config import LoopSettings
from adreg.train.encode import Example
from adreg.train.forward import shares_prefix, summed_loss
from adreg.train.model import Model
from adreg.train.record import StepLoss

MAX_GRADIENT_NORM = 1.0


class StepTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loader yields one optimizer step at a time, as its micro batches.

    The gradient of a step is that of the mean loss over all its learned tokens, however the step is split. Instead of
    logging it collects `losses` and tells the task; a loss or gradient that is no number ends the run.
    """

    def __init__(
        self, model: Model, arguments: TrainingArguments, examples: Sequence[Example], budget: int, task: Task
    ) -> None:
        def step(rows: list[Example]) -> dict[str, Any]:
            return {"micro": micro_batches(rows, budget, shares_prefix(model))}

        super().__init__(model=model, args=arguments, train_dataset=list(examples), data_collator=step)
        self.task = task
        self.losses: list[StepLoss] = []
        self.tokens = self.learned = 0
        self._step_tokens, self._began = 0, time.perf_counter()

    def training_step(self, model: Model, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward through every micro batch; returns the step's mean loss."""
        model.train()
        batches = self._prepare_inputs(inputs)["micro"]
        self._step_tokens, learned = token_counts(batches)
        total = torch.zeros((), device=self.args.device)
        for batch in batches:
            loss = summed_loss(model, batch) / learned
            self.accelerator.backward(loss)
            total += loss.detach()
        self.tokens, self.learned = self.tokens + self._step_tokens, self.learned + learned
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Takes what the Trainer logs after each step; its summary at the end carries no loss and is left."""
        if "loss" not in logs:
            return
        step, loss, norm = self.state.global_step, logs["loss"], logs["grad_norm"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise AdregError(f"training diverged at step {step}: the loss is {loss} and its gradient {norm}; lower train.lr")
        elapsed, self._began = time.perf_counter() - self._began, time.perf_counter()
        speed = self._step_tokens / elapsed
        self.losses.append(StepLoss(step, round(loss, 6), logs["learning_rate"], round(speed, 1)))
        self.task.advance(1, f"loss {loss:.3f}, {speed:.0f} tokens/s")


def run_loop(
    model: Model, examples: Sequence[Example], settings: LoopSettings, task: Task, single: bool = False
) -> StepTrainer:
    """Train `model` on `examples`; `single` runs one row at a time. Raises `AdregError` when the loss is no number."""
    with tempfile.TemporaryDirectory() as scratch:
        budget = 1 if single else settings.micro_tokens
        trainer = StepTrainer(model, _arguments(scratch, len(examples), settings), examples, budget, task)
        trainer.train()
    return trainer


def _arguments(scratch: str, rows: int, settings: LoopSettings) -> TrainingArguments:
    gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=scratch,
        max_steps=settings.steps(rows),
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.lr,
        lr_scheduler_type=settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        warmup_steps=settings.warmup,
        max_grad_norm=MAX_GRADIENT_NORM,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process drives one GPU; DataParallel would split a batch of one
    return arguments
