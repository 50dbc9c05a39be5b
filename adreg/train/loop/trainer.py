"""One run of the loop, from a model and rows to trained weights and how it went. Knows no files but its folder."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainingArguments

from adreg.errors import Interrupted, ProcessLost
from adreg.train.config import LoopSettings
from adreg.train.loop import state
from adreg.train.loop.interrupt import Interruption
from adreg.train.loop.job import Course, Job
from adreg.train.loop.steptrainer import StepTrainer
from adreg.train.loop.tracking import PROJECT, check_trackers, local_trackers
from adreg.train.loop.world import all_alive, spread
from adreg.train.model.load import Model
from adreg.train.steps.objective import Objective


def run_loop(
    model: Model, objective: Objective[Any], rows: Sequence[Any], settings: LoopSettings, job: Job | None = None
) -> Course:
    """Train `model` on `rows`; it has the weights to be kept when this returns.

    Raises `Diverged` before a step would spoil the weights, and `Interrupted` when a signal ended it after a step.
    """
    job = job or Job()
    check_trackers(job.track, job.folder)
    with tempfile.TemporaryDirectory() as scratch, local_trackers(job.track, job.folder):
        arguments = _arguments(scratch, settings, job)
        with Interruption() as interruption:
            trainer = StepTrainer(model, arguments, objective, rows, settings, job, interruption)
            with job.progress.task("train", trainer.plan.steps, "step") as task:
                task.advance(trainer.course.step)
                trainer.task = task
                with all_alive(lambda: ProcessLost(job.run_id, trainer.saved)):
                    trainer.train()
                    _leave_together(trainer, interruption)
    course = trainer.course
    course.kept = course.step
    if trainer.best and course.best:
        state.set_weights(trainer.model, trainer.best)
        course.kept = course.best.step
    return course


def _leave_together(trainer: StepTrainer, interruption: Interruption) -> None:
    """Raise `Interrupted` where a signal ended the run. What only one of several processes heard of is none."""
    alone = trainer.world.processes == 1
    if signal := trainer.stop or (interruption.signal if alone else None):
        trainer.world.wait()
        raise Interrupted(trainer.job.run_id, trainer.saved, signal)


def _arguments(scratch: str, settings: LoopSettings, job: Job) -> TrainingArguments:
    """The Trainer's settings; several processes meet here, and wait for each other."""
    gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=scratch,
        max_steps=1,  # the plan's, once it is made
        learning_rate=settings.lr,
        lr_scheduler_type=settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        warmup_steps=settings.warmup,
        max_grad_norm=settings.clip,
        activation_checkpointing=job.checkpointing,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=not gpu and spread() != "DEEPSPEED",
        ddp_backend=None if gpu or spread() != "DEEPSPEED" else "gloo",  # which DeepSpeed has on CPUs, and accelerate not
        dataloader_pin_memory=gpu,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=list(job.track) or "none",
        run_name=job.run_id or None,
        project=PROJECT,
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process drives one GPU; DataParallel would split a batch of one
    return arguments
