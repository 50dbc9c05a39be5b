"""Supervised fine-tuning: the cross-entropy of the learned tokens. Knows examples, not files."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adreg.train.data.encode import Example
from adreg.train.model.load import Model
from adreg.train.steps.batch import Batch, Layout
from adreg.train.steps.forward import summed_loss, to_device


class SftObjective:
    """The objective of examples, laid out so that `layout`'s attention keeps them apart."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def micro_batches(self, rows: Sequence[Example], budget: int) -> list[Batch]:
        """The rows as batches of at most `budget` tokens; a longer row is alone."""
        return self.layout.micro_batches(rows, budget)

    def weight(self, batch: Batch) -> int:
        """The learned tokens of `batch`."""
        return int(batch["targets"].numel())

    def tokens(self, batch: Batch) -> int:
        """The tokens of all rows of `batch`, as if none were shared."""
        return int(batch["tokens"])

    def loss(self, model: Model, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The summed cross-entropy, and nothing more."""
        return summed_loss(model, batch), {}

    def culprits(self, model: Model, rows: Sequence[Example]) -> list[int]:
        """Which of `rows` have a loss or gradient of their own that is no number."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return [place for place, row in enumerate(rows) if not self._is_sound(model, row, trained)]

    def _is_sound(self, model: Model, row: Example, trained: list[Tensor]) -> bool:
        loss = summed_loss(model, to_device(self.layout.batch([row]), model.device))
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        return all(bool(value.isfinite().all()) for value in (loss, *gradients) if value is not None)
