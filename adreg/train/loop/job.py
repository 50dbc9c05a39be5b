"""What the loop is given and what it gives back. Knows no Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adreg.progress import SILENT, Progress
from adreg.train.config import EvalSettings, SaveSettings
from adreg.train.loop.checkpoint import Checkpoint
from adreg.train.record.record import Evaluation, StepLoss
from adreg.train.record.recorder import NoRecorder, Recorder

FINISHED, EARLY = "finished", "stopped early"


@dataclass(frozen=True)
class Job:
    """What a run of the loop is beside model, objective, rows and `train` settings; the defaults only train.

    `groups` are AdamW's parameter groups, None: all trained parameters alike. `budget` goes over `train.micro_tokens`.
    Checkpoints go to `folder`, none where it is None, and carry `origin`; `resume` is the one to go on from.
    `checkpointing` computes activations twice. `warn` is told what went wrong without ending the run.
    """

    run_id: str = ""
    held_out: Sequence[Any] = ()
    eval: EvalSettings = field(default_factory=EvalSettings)
    save: SaveSettings = field(default_factory=SaveSettings)
    track: Sequence[str] = ()
    groups: Sequence[dict[str, Any]] | None = None
    budget: int | None = None
    checkpointing: bool = False
    folder: Path | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    resume: Checkpoint | None = None
    recorder: Recorder = field(default_factory=NoRecorder)
    progress: Progress = SILENT
    warn: Callable[[str], None] = lambda _: None


@dataclass
class Course:
    """How a run went so far; it goes into checkpoints and comes back from them.

    At the end, `stopped` says why it is one, and `kept` is the step whose weights the model has.
    """

    losses: list[StepLoss] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    tokens: int = 0
    learned: int = 0
    stopped: str = FINISHED
    kept: int | None = None

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.losses[-1].step if self.losses else 0

    @property
    def best(self) -> Evaluation | None:
        """The best look after training began."""
        return next((look for look in reversed(self.evaluations) if look.best and look.step), None)

    def looked(self, loss: float) -> Evaluation:
        """Note the held-out loss after the last step. The look before training is no rival of the later ones."""
        rivals = [look.loss for look in self.evaluations if look.step]
        look = Evaluation(self.step, loss, all(loss < other for other in rivals))
        self.evaluations.append(look)
        return look

    def looks_since_best(self) -> int:
        """How many looks after the best one were no better."""
        best = self.best
        return sum(look.step > best.step for look in self.evaluations) if best else 0

    def held_out(self) -> tuple[float | None, float | None]:
        """The held-out loss before training, and that of the weights that are kept at the end."""
        found = {look.step: look.loss for look in self.evaluations}
        return found.get(0), found.get(self.kept) if self.kept else None

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "losses": [list(step) for step in self.losses],
            "evaluations": [list(look) for look in self.evaluations],
            "tokens": self.tokens,
            "learned": self.learned,
            "stopped": self.stopped,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Course:
        """From a checkpoint."""
        looks = [Evaluation(*look) for look in value["evaluations"]]
        losses = [StepLoss(*step) for step in value["losses"]]
        return cls(losses, looks, value["tokens"], value["learned"], value["stopped"])
