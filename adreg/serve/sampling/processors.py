"""What changes logits before a token is drawn: biases, held-back ends and penalties, each for one sequence."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from adreg.errors import UsageError
from adreg.serve.generation import Sampling

Scores = NDArray[np.float32]


class Penalties:
    """vLLM's formulas: first CTRL's on every token of the prompt or the answer (a positive logit is divided by
    `repetition`, another one multiplied), then OpenAI's on those of the answer: `frequency` for each time, `presence` once.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._repetition = np.float32(sampling.repetition_penalty)
        self._frequency, self._presence = np.float32(sampling.frequency_penalty), np.float32(sampling.presence_penalty)
        self._prompt = np.unique(np.array(prompt, np.intp))
        self._counts: dict[int, int] = {}
        self._read = 0

    @staticmethod
    def wanted(sampling: Sampling) -> bool:
        return sampling.repetition_penalty != 1 or sampling.frequency_penalty != 0 or sampling.presence_penalty != 0

    def apply(self, scores: Scores, generated: Sequence[int]) -> None:
        """Change `scores` in place; `generated` has only grown since the last call."""
        for token in generated[self._read :]:
            self._counts[token] = self._counts.get(token, 0) + 1
        self._read = len(generated)
        come = np.fromiter(self._counts, np.intp, len(self._counts))
        if self._repetition != 1:
            seen = np.union1d(self._prompt, come)
            old = scores[seen]
            scores[seen] = np.where(old > 0, old / self._repetition, old * self._repetition)
        if self._frequency or self._presence:
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            scores[come] -= self._frequency * counts + self._presence


class Bias:
    """OpenAI's `logit_bias`: numbers that are added to the logits of some tokens. Raises `UsageError` for other ids."""

    def __init__(self, biases: Collection[tuple[int, float]], vocabulary: int) -> None:
        for token, _ in biases:
            if not 0 <= token < vocabulary:
                raise UsageError(f"logit_bias names token {token}; ids lie between 0 and {vocabulary - 1}")
        self._tokens = np.array([token for token, _ in biases], np.intp)
        self._values = np.array([value for _, value in biases], np.float32)

    def apply(self, scores: Scores) -> None:
        scores[self._tokens] += self._values
