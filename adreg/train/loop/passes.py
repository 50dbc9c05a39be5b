"""The passes of one step, forward and back through its micro batches, shared by all processes; and looks at held-out rows.

The gradient is that of the mean loss over everything learned in the step, however the step is split over micro batches and
processes: DDP, FSDP and DeepSpeed average gradients over processes, so each process weighs its sum by their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adreg.train.loop.world import Through, World
from adreg.train.model.load import Model
from adreg.train.steps.batch import Batch
from adreg.train.steps.forward import to_device
from adreg.train.steps.objective import Objective

LOOKED_AT = 256  # held-out rows turned into batches at a time


@dataclass(frozen=True)
class StepSums:
    """What a step computed, over all processes: the mean loss (a tensor), its weight, the tokens, other means."""

    loss: Tensor
    learned: int
    tokens: int
    more: dict[str, float]
    stop: int = 0


class Passes:
    """Runs an objective's batches of at most `budget` tokens. `sharded`: every process has to make every pass."""

    def __init__(self, objective: Objective[Any], world: World, budget: int, sharded: bool) -> None:
        self.objective, self.world, self.budget, self.sharded = objective, world, budget, sharded

    def learn(self, model: Model, wrapped: Any, rows: Sequence[Any], spare: Any, stop: int = 0) -> StepSums:
        """Gradients of this process's `rows`, which may be none; `spare` is any row, and `stop` is told to all processes."""
        batches = self._batches(model, rows or [spare])
        weights = [self.objective.weight(batch) if rows else 0 for batch in batches]
        told = self.world.gather([sum(weights), len(batches), stop])
        learned, asked = int(sum(one[0] for one in told)), max(int(one[2]) for one in told)
        passes = max(int(one[1]) for one in told) if self.sharded else len(batches)
        summed = torch.zeros((), device=self.world.accelerator.device)
        more: dict[str, float] = {}
        called = model if wrapped is model else Through(wrapped, model)
        for number in range(passes):
            batch = batches[min(number, len(batches) - 1)]
            counts = bool(rows) and number < len(batches)
            with self._synced(wrapped, number + 1 == passes):
                loss, sums = self.objective.loss(called, batch)
                self.world.accelerator.backward(loss * self.world.processes / learned if counts else loss * 0.0)
            if counts:
                summed += loss.detach()
            more = {name: more.get(name, 0.0) + (value if counts else 0.0) for name, value in sums.items()}
        tokens = sum(map(self.objective.tokens, batches)) if rows else 0
        return self._over_all(StepSums(summed / learned, learned, tokens, more, asked))

    def _over_all(self, own: StepSums) -> StepSums:
        means = {name: value / own.learned for name, value in own.more.items()}
        if self.world.processes == 1:
            return StepSums(own.loss, own.learned, own.tokens, means, own.stop)
        loss, tokens, *values = self.world.sums([float(own.loss), own.tokens, *means.values()])
        means = dict(zip(means, values, strict=True))
        return StepSums(torch.tensor(loss, device=own.loss.device), own.learned, int(tokens), means, own.stop)

    def look(self, model: Model, rows: Sequence[Any], leave: Callable[[], bool] = lambda: False) -> float | None:
        """The mean loss on held-out `rows`, without dropout; None if `leave` says so between two batches."""
        model.eval()
        process, processes = (0, 1) if self.sharded else (self.world.process, self.world.processes)
        total, weight = 0.0, 0
        with torch.no_grad():
            for batch in self._chunks(model, range(process, len(rows), processes), rows):
                if leave():
                    return None
                total += float(self.objective.loss(model, batch)[0])
                weight += self.objective.weight(batch)
        sums = [total, weight] if self.sharded else self.world.sums([total, weight])
        return sums[0] / sums[1]

    def _chunks(self, model: Model, places: range, rows: Sequence[Any]) -> Iterator[Batch]:
        for start in range(0, len(places), LOOKED_AT):
            yield from self._batches(model, [rows[place] for place in places[start : start + LOOKED_AT]])

    def _batches(self, model: Model, rows: Sequence[Any]) -> list[Batch]:
        return [to_device(batch, model.device) for batch in self.objective.micro_batches(rows, self.budget)]

    def _synced(self, wrapped: Any, last: bool) -> Any:
        """Gradients go over to the other processes with the last batch only."""
        accelerator = self.world.accelerator
        accelerator.gradient_state._set_sync_gradients(last)
        return nullcontext() if last or self.world.processes == 1 else accelerator.no_sync(wrapped)
