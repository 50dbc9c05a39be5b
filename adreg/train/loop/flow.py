"""When a run looks at its held-out rows, saves and stops. Knows when, not how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from adreg.train.loop.steptrainer import StepTrainer


class Flow(TrainerCallback):  # type: ignore[misc]
    """Tells the Trainer after each step what is due."""

    def __init__(self, trainer: StepTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The look before the first step, and one that an interruption left out."""
        trainer = self.trainer
        looked = {look.step for look in trainer.course.evaluations}
        step = trainer.course.step
        if trainer.job.held_out and step not in looked and (step == 0 or self._due(trainer.job.eval.every, step, True)):
            trainer.evaluate()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look and save as often as is set; when stopped, save and go."""
        trainer, job, step = self.trainer, self.trainer.job, state.global_step
        trainer.stop = trainer.asked_to_stop()
        control.should_evaluate = bool(job.held_out) and not trainer.stop and self._due(job.eval.every, step, True)
        control.should_save = bool(trainer.stop) or self._due(job.save.every, step, job.save.every is not None)
        control.should_training_stop = bool(trainer.stop) or step >= trainer.plan.steps

    def _due(self, every: int | str | None, step: int, at_end: bool) -> bool:
        plan = self.trainer.plan
        if step == plan.steps:
            return at_end
        return plan.ends_epoch(step) if every == "epoch" else bool(every) and step % int(every or 1) == 0
