"""Direct preference optimisation: a chosen answer is to gain on a rejected one. Knows tensors and pairs, not files.

Rafailov et al., arXiv 2305.18290, equation 7. The reference is the model as it was when the run began: its
log-probabilities are computed once, before the first step, and no second model is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from adreg.errors import UnsupportedError
from adreg.progress import SILENT, Progress
from adreg.train.data.encode import Example, Pair
from adreg.train.model.load import Model
from adreg.train.steps.batch import Batch, Layout, plan_micro_batches
from adreg.train.steps.forward import to_device, token_losses

CALL_TOKENS = 80  # a batch of its own costs about as much as so many tokens: measured on SmolLM2-135M in bf16, one thread


@dataclass(frozen=True)
class ScoredPair:
    """A pair, and the log-probabilities of its two answers under the reference, in nats."""

    pair: Pair
    chosen: float
    rejected: float


@dataclass(frozen=True)
class ScoredPairs(Sequence[ScoredPair]):
    """Pairs beside the reference's log-probabilities (rows, 2), float32; the pairs may lie on disk."""

    pairs: Sequence[Pair]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> ScoredPair:  # type: ignore[override]
        return ScoredPair(self.pairs[row], *map(float, self.scores[row]))


def score(
    model: Model, pairs: Sequence[Pair], budget: int, layout: Layout, adapter: bool, progress: Progress = SILENT
) -> ScoredPairs:
    """What the reference says of `pairs`: `model` as it is now, without dropout, its adapter switched off unless `adapter`.

    Raises `UnsupportedError` for a model that takes one row at a time.
    """
    if layout.single:
        raise UnsupportedError("preferences on a model that cannot take two rows at once", "objective: sft")
    scores = np.zeros((len(pairs), 2), np.float32)
    if not len(pairs):
        return ScoredPairs(pairs, scores)
    model.eval()
    groups = plan_micro_batches([_length(pair) for pair in pairs], budget)
    known = nullcontext() if adapter else model.disable_adapter()
    with torch.no_grad(), known, progress.task("reference", len(pairs), "pair") as task:
        for group in groups:
            batch = to_device(_lay([pairs[row] for row in group], layout), model.device)
            scores[group] = log_probabilities(model, batch).cpu().numpy()
            task.advance(len(group))
    return ScoredPairs(pairs, scores)


class DpoObjective:
    """The loss -log sigmoid(beta (gain of chosen - gain of rejected)), a gain being log-probability less the reference's.

    A pair stays in one batch. Where a layout computes once what all rows of a batch begin with, and the prompts are long,
    each pair is a batch of its own, so that its two answers share all of theirs.
    """

    def __init__(self, beta: float, layout: Layout) -> None:
        self.beta, self.layout = beta, layout

    def micro_batches(self, rows: Sequence[ScoredPair], budget: int) -> list[Batch]:
        """The pairs as batches of at most `budget` tokens; a longer pair is alone."""
        together = plan_micro_batches([_length(row.pair) for row in rows], budget)
        plans = [together, [[row] for row in range(len(rows))]] if self.layout.share else [together]
        return min(([self._batch([rows[row] for row in group]) for group in plan] for plan in plans), key=_cost)

    def weight(self, batch: Batch) -> int:
        """The pairs of `batch`."""
        return len(batch["reference"])

    def tokens(self, batch: Batch) -> int:
        """The tokens of all answers, each with its prompt."""
        return int(batch["tokens"])

    def loss(self, model: Model, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The summed loss; sums of the margin and the rewards (beta x gain), and how many pairs are the right way round."""
        rewards = self.beta * (log_probabilities(model, batch) - batch["reference"])
        margins = rewards[:, 0] - rewards[:, 1]
        told = torch.stack([margins.sum(), (margins > 0).sum(), *rewards.sum(0)]).tolist()
        names = ("margin", "accuracy", "chosen_reward", "rejected_reward")
        return -F.logsigmoid(margins).sum(), dict(zip(names, told, strict=True))

    def culprits(self, model: Model, rows: Sequence[ScoredPair]) -> list[int]:
        """Which of `rows` have a loss or gradient of their own that is no number."""
        return [place for place, row in enumerate(rows) if not self._is_sound(model, row)]

    def _is_sound(self, model: Model, row: ScoredPair) -> bool:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        loss, _ = self.loss(model, to_device(self._batch([row]), model.device))
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        return all(bool(value.isfinite().all()) for value in (loss, *gradients) if value is not None)

    def _batch(self, rows: Sequence[ScoredPair]) -> Batch:
        reference = torch.tensor([(row.chosen, row.rejected) for row in rows])
        return {**_lay([row.pair for row in rows], self.layout), "reference": reference}


def log_probabilities(model: Model, batch: Batch) -> Tensor:
    """The log-probabilities (pairs, 2) of the chosen and rejected answers, each summed over its learned tokens, float32."""
    losses = token_losses(model, batch)
    answers = torch.repeat_interleave(batch["learned"])
    return -losses.new_zeros(len(batch["learned"])).index_add(0, answers, losses).view(-1, 2)


def _lay(pairs: Sequence[Pair], layout: Layout) -> Batch:
    """The pairs' rows, chosen before rejected, and how many tokens each of them learns."""
    rows = list(_rows(pairs))
    return {**layout.batch(rows), "learned": torch.tensor([row.trained for row in rows])}


def _rows(pairs: Sequence[Pair]) -> Iterator[Example]:
    for pair in pairs:
        yield pair.chosen
        yield pair.rejected


def _length(pair: Pair) -> int:
    return len(pair.chosen.ids) + len(pair.rejected.ids)


def _cost(batches: Sequence[Batch]) -> int:
    """What computing `batches` costs, in tokens."""
    return sum(batch["input_ids"].numel() + CALL_TOKENS for batch in batches)
