"""transformers' Trainer, given whole optimizer steps of rows. Knows an objective, not what it learns."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments

from adreg.errors import Diverged, StorageError
from adreg.progress import Task
from adreg.train.config import LoopSettings
from adreg.train.loop import checkpoint as checkpoints
from adreg.train.loop import state
from adreg.train.loop.flow import Flow
from adreg.train.loop.interrupt import Interruption
from adreg.train.loop.job import EARLY, Course, Job
from adreg.train.loop.passes import Passes, StepSums
from adreg.train.loop.plan import Steps, place_of, plan_steps
from adreg.train.loop.world import World, check_launch, spread_on_cpus
from adreg.train.model.load import Model
from adreg.train.record.environment import memory
from adreg.train.record.record import StepLoss
from adreg.train.steps.objective import Objective


class StepTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that sees a run as one epoch of optimizer steps, and goes by our plan, evaluations and checkpoints.

    All that is drawn at random within a step depends on seed, step and process alone, so a resumed run draws the same.
    """

    def __init__(
        self,
        model: Model,
        arguments: TrainingArguments,
        objective: Objective[Any],
        rows: Sequence[Any],
        settings: LoopSettings,
        job: Job,
        interruption: Interruption,
    ) -> None:
        self.objective, self.rows, self.settings, self.job, self.interruption = objective, rows, settings, job, interruption
        self.plan = plan_steps(rows, settings)
        self.optimizer: Any
        arguments.max_steps = self.plan.steps
        super().__init__(model=model, args=arguments, callbacks=[Flow(self)])
        self.remove_callback(PrinterCallback)
        self.accelerator.free_memory = lambda *_: None  # there is nothing yet, and collecting it takes half a second
        self.course = Course.from_json(job.resume.state["course"]) if job.resume else Course()
        self.best = job.resume.tensors(checkpoints.BEST) if job.resume else {}
        self.saved = job.resume.step if job.resume else None
        self.stop = 0
        self.world = World(self.accelerator)
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        check_launch(self.accelerator)
        self.passes = Passes(objective, self.world, job.budget or settings.micro_tokens, sharded)
        self.task: Task | None = None
        self._sums: StepSums | None = None
        self._inputs: list[Any] = []
        self._began = time.perf_counter()

    def create_accelerator_and_postprocess(self) -> None:
        """The Trainer's own, and then FSDP2 also where there is no GPU."""
        super().create_accelerator_and_postprocess()
        spread_on_cpus(self.accelerator)
        self.is_fsdp_enabled = getattr(self.accelerator.state, "fsdp_plugin", None) is not None

    def get_train_dataloader(self) -> Any:
        """Our own steps, from where the run goes on."""
        start = self.plan.steps if self.course.stopped == EARLY else self.course.step
        self._steps = Steps(self.plan, self.rows, start, self.world.process, self.world.processes)
        return self._steps

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over the job's groups."""
        if self.optimizer is None:
            groups = self.job.groups or [{"params": list(state.trained_parameters(model or self.model).values())}]
            rate, decay = self.settings.lr, self.settings.weight_decay
            self.optimizer = torch.optim.AdamW(list(groups), lr=rate, weight_decay=decay, fused=True)
        return self.optimizer

    def _init_training_state(self, *arguments: Any, **named: Any) -> tuple[int, int]:
        super()._init_training_state(*arguments, **named)
        self.state.global_step = self.course.step
        return 0, 0

    def _prepare_for_training(self, *arguments: Any, **named: Any) -> Any:
        """Wraps model and optimizer, then puts them where the checkpoint left them."""
        prepared = super()._prepare_for_training(*arguments, **named)
        resume, optimizer = self.job.resume, self.optimizer.optimizer
        if resume:
            state.set_weights(self.model, resume.tensors(checkpoints.ADAPTER))
            state.set_moments(self.model, optimizer, resume.tensors(checkpoints.OPTIMIZER))
            state.set_schedule(self.lr_scheduler, resume.step)
        self._trained = list(state.trained_parameters(self.model).values())
        prepared[0].zero_grad = self._forget_gradients
        return prepared

    def _forget_gradients(self, set_to_none: bool = True) -> None:
        """What `Module.zero_grad` does after a walk through all modules."""
        for parameter in self._trained:
            parameter.grad = None

    def training_step(self, model: Any, inputs: list[Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward through the step; returns its mean loss over all processes."""
        self._seed()
        if not model.training:
            model.train()
        stop = self.interruption.signal or 0
        self._sums = self.passes.learn(self.model, model, inputs, self.rows[0], stop)
        self._inputs = inputs
        return self._sums.loss

    def _seed(self) -> None:
        drawn = np.random.SeedSequence([self.settings.seed, self.state.global_step, self.world.process])
        seed = int(drawn.generate_state(1, np.uint32)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed(seed)

    def _clip_grad_norm(self, model: Any) -> float:
        """Clips; raises `Diverged` before the optimizer would take over what is no number."""
        found = self.accelerator.clip_grad_norm_(self._trained, self.settings.clip)
        norm = float(found.full_tensor() if hasattr(found, "full_tensor") else found)
        loss = float(self._sums.loss) if self._sums else math.nan
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(self.state.global_step + 1, loss, norm, self._culprits())
        return norm

    def _culprits(self) -> list[str]:
        """The rows of the step, as file:line, whose own loss or gradient is no number."""
        if self.passes.sharded:
            return []
        found = set(self.objective.culprits(self.model, self._inputs)) if self._inputs else set()
        step = [self.rows[row] for row in self.plan.rows(self.state.global_step)]
        own = {place_of(self._inputs[place]) for place in found}
        bad = self.world.sums([float(place_of(row) in own) for row in step])
        return [place_of(row) for row, count in zip(step, bad, strict=True) if count]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Notes the step, tells the recorder, and the trackers where there are any."""
        if "loss" in logs and self._sums:
            self._note(logs, self._sums)
        if self.job.track:
            logs["epoch"] = self.state.global_step / self.plan.epoch_steps
            self.state.epoch = logs["epoch"]
            super().log(logs, start_time)

    def _note(self, logs: dict[str, float], sums: StepSums) -> None:
        elapsed, self._began = time.perf_counter() - self._began, time.perf_counter()
        course, speed = self.course, sums.tokens / elapsed
        course.tokens, course.learned = course.tokens + sums.tokens, course.learned + sums.learned
        more = {name: round(value, 6) for name, value in sums.more.items()} or None
        norm, loss = round(float(logs["grad_norm"]), 6), round(logs["loss"], 6)
        step = StepLoss(self.state.global_step, loss, logs["learning_rate"], round(speed, 1), norm, memory(), more)
        course.losses.append(step)
        self.job.recorder.step(step)
        if self.task:
            self.task.advance(1, f"loss {loss:.3f}, {speed:.0f} tokens/s")

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Look at the held-out rows; keep the weights if they are the best, and end the run where patience ends."""
        self.control.should_evaluate = False
        loss = self.passes.look(self.model, self.job.held_out, self._leaves)
        if loss is None:
            self.control.should_save = self.control.should_training_stop = True
            return {}
        if not math.isfinite(loss):
            raise Diverged(self.course.step, loss, None, [])
        look, patience = self.course.looked(loss), self.job.eval.early_stop
        self.job.recorder.evaluated(look)
        self._began = time.perf_counter()
        if patience and look.best and look.step:
            self.best = state.weights(self.model)
        if patience and self.course.looks_since_best() >= patience and look.step < self.plan.steps:
            self.course.stopped, self._steps.start = EARLY, self.plan.steps
            self.control.should_save = self.control.should_training_stop = True
        self.log({"eval_loss": loss})
        return {"eval_loss": loss}

    def _leaves(self) -> bool:
        return self.world.processes == 1 and self.interruption.signal is not None and self.course.step > 0

    def asked_to_stop(self) -> int:
        """The signal that ends the run after this step, the same in every process; 0 is none."""
        if self.world.processes > 1:
            return self._sums.stop if self._sums else 0
        return self.interruption.signal or 0

    def _save_checkpoint(self, *_: Any, **__: Any) -> None:
        """Write a checkpoint; a full disk keeps the last good one, and the run goes on."""
        folder, step = self.job.folder, self.course.step
        self.control.should_save = False
        if folder is None or self.is_deepspeed_enabled:  # whose optimizer holds its state in its own parts
            return
        tensors = {
            checkpoints.ADAPTER: state.weights(self.model),
            checkpoints.OPTIMIZER: state.moments(self.model, self.optimizer.optimizer),
            **({checkpoints.BEST: self.best} if self.best else {}),
        }
        if self.world.process:
            return
        try:
            checkpoints.write_checkpoint(folder, step, tensors, {"course": self.course.as_json(), **self.job.origin})
        except StorageError as error:
            kept = "none is kept" if self.saved is None else f"that of step {self.saved} is kept"
            self.job.warn(f"the checkpoint of step {step} could not be written ({error.why}); {kept}")
            return
        self.saved = step
        checkpoints.prune(folder, self.job.save.keep)
        self._began = time.perf_counter()

    def floating_point_ops(self, inputs: Any) -> int:
        """Nothing counts them."""
        return 0

    def store_flos(self) -> None:
        """Nothing counts them."""
