"""The choice of the next token from logits. Each sequence has a generator of its own, so others never disturb it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adreg.errors import AdregError
from adreg.serve.sequence import Sampling

if TYPE_CHECKING:
    import torch


class Sampler:
    """Chooses the tokens of one sequence; the same seed and logits give the same tokens."""

    def __init__(self, sampling: Sampling) -> None:
        import torch

        self._sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def choose(self, logits: torch.Tensor) -> int:
        """A token by `logits` (vocabulary,), float32 on the CPU. Raises `AdregError` when they are no numbers."""
        best, token = logits.max(dim=0)
        if not best.isfinite():
            raise AdregError("the model computed no finite logits")
        if self._sampling.temperature == 0:
            return int(token)
        # relative to the best one, a tiny temperature cannot overflow
        probabilities = ((logits - best) / self._sampling.temperature).softmax(dim=0)
        return self._draw(probabilities)

    def _draw(self, probabilities: torch.Tensor) -> int:
        if self._sampling.top_p >= 1:
            return int(probabilities.multinomial(1, generator=self._generator))
        ordered, tokens = probabilities.sort(descending=True, stable=True)
        before = ordered.cumsum(dim=0) - ordered
        nucleus = ordered * (before < self._sampling.top_p)
        return int(tokens[nucleus.multinomial(1, generator=self._generator)])
