"""What is trained for: how rows become batches, and a batch a loss. The contract between the loop and an objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from adreg.train.model.load import Model
from adreg.train.steps.batch import Batch

Row = TypeVar("Row", contravariant=True)


class Objective(Protocol, Generic[Row]):
    """Turns the rows of a step into micro batches, and each into a share of the step's loss.

    The step's loss is the sum of `loss` over its micro batches, divided by the sum of `weight`: the mean over learned tokens,
    or over pairs, however the step is split.
    """

    def micro_batches(self, rows: Sequence[Row], budget: int) -> list[Batch]:
        """The rows as batches of at most `budget` tokens; a longer row is alone."""

    def weight(self, batch: Batch) -> int:
        """How many learned tokens, or pairs, `loss` sums over."""

    def tokens(self, batch: Batch) -> int:
        """The tokens of all rows of `batch`, as if none were shared."""

    def loss(self, model: Model, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The summed loss, and named sums worth recording, such as margins; each is divided by the weight too."""

    def culprits(self, model: Model, rows: Sequence[Row]) -> list[int]:
        """Which of `rows` have a loss or gradient of their own that is no number."""
