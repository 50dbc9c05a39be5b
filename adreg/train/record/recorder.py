"""Whom a run tells how it goes, from its first second on. The contract; knows no training and no registry."""

from __future__ import annotations

from typing import Any, Protocol

from adreg.train.record.record import Evaluation, StepLoss

__all__ = ["Evaluation", "NoRecorder", "Recorder"]


class Recorder(Protocol):
    """Receives a run's record as it grows. What it is told is kept even if the process dies in the next moment."""

    def began(self, record: dict[str, Any]) -> None:
        """What is known before the first step: base, data, config, code, environment, seeds; `outcome` is "running".

        May be told again as more is known, and when a run is resumed: the same id goes on."""

    def step(self, step: StepLoss) -> None:
        """An optimizer step is done. A step that comes again, after a resume, replaces what was told of it and all later."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """The held-out rows were looked at."""

    def ended(self, record: dict[str, Any]) -> None:
        """The whole record; `outcome` is finished, interrupted, stopped early, diverged or failed.

        Where it has no `losses` or `evaluations`, those that were told stay."""


class NoRecorder:
    """Keeps nothing."""

    def began(self, record: dict[str, Any]) -> None: ...

    def step(self, step: StepLoss) -> None: ...

    def evaluated(self, evaluation: Evaluation) -> None: ...

    def ended(self, record: dict[str, Any]) -> None: ...
