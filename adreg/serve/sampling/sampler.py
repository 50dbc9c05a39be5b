"""From the logits of one sequence to its next token. Knows numbers and settings; each sequence has a sampler of its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adreg.errors import AdregError
from adreg.serve.generation import Generation, Logprob
from adreg.serve.sampling.grammar import GrammarState
from adreg.serve.sampling.heaviest import Numbers, drawn, largest, nucleus
from adreg.serve.sampling.logprobs import logprob
from adreg.serve.sampling.noise import Noise
from adreg.serve.sampling.processors import Bias, Penalties

COLDEST = 1e-5
"""A temperature below this is 0, as in vLLM."""


@dataclass(frozen=True)
class Choice:
    """The next token, and its log-probability where it was asked for."""

    id: int
    logprob: Logprob | None


class Sampler:
    """Chooses the tokens of one sequence: a token depends on its logits, the tokens before it, its index and the seed.

    In vLLM's order: ends held back by `min_tokens`, `logit_bias`, repetition, frequency and presence penalties, grammar,
    then the likeliest token, or `temperature`, `min_p`, `top_k`, `top_p` and a draw. transformers agrees, except that
    its min_p is the last: that leaves a larger nucleus where both are set, and vLLM's clients are ours.
    """

    def __init__(
        self, asked: Generation, vocabulary: int, grammar: GrammarState | None = None, ends: Collection[int] = ()
    ) -> None:
        """`ends` are the ids that `min_tokens` holds back. Raises `UsageError` for biases outside of the vocabulary."""
        sampling = asked.sampling
        self._asked, self._sampling, self._grammar = asked, sampling, grammar
        self._ends = np.array(sorted(ends), np.intp)
        self._bias = Bias(sampling.logit_bias, vocabulary) if sampling.logit_bias else None
        self._penalties = Penalties(sampling, asked.prompt) if Penalties.wanted(sampling) else None
        self._noise = Noise(sampling.seed)

    def choose(self, logits: NDArray[np.float32], generated: Sequence[int]) -> Choice:
        """The token that follows `generated`, by `logits` (vocabulary,), which stay as they are.

        Raises `AdregError` when the logits are no numbers. Call it once for each token of a grammar.
        """
        # argmax finds a NaN first
        best = int(logits.argmax())
        if not np.isfinite(logits[best]):
            raise AdregError("the model computed no finite logits")
        token = self._token(logits, best, generated)
        if self._grammar is not None:
            self._grammar.advance(token)
        told = self._asked.logprobs
        return Choice(token, None if told is None else logprob(logits, token, told))

    def _token(self, logits: NDArray[np.float32], best: int, generated: Sequence[int]) -> int:
        held = len(generated) < self._asked.min_tokens
        scores: Numbers = logits
        if held or self._bias or self._penalties or self._grammar:
            scores = self._processed(logits, generated, held)
            best = int(scores.argmax())
            if not np.isfinite(scores[best]):
                raise AdregError("no token is allowed to follow")
        if self._sampling.temperature < COLDEST or self._sampling.top_k == 1:
            return best
        return self._draw(scores, float(scores[best]), len(generated))

    def _processed(self, logits: NDArray[np.float32], generated: Sequence[int], held: bool) -> NDArray[np.float32]:
        scores = logits.copy()
        # once a grammar is at its end, only an end may follow
        if held and not (self._grammar and self._grammar.stopped):
            scores[self._ends] = -np.inf
        if self._bias:
            self._bias.apply(scores)
        if self._penalties:
            self._penalties.apply(scores, generated)
        if self._grammar:
            scores[~self._grammar.allowed()] = -np.inf
        return scores

    def _draw(self, scores: Numbers, best: float, index: int) -> int:
        sampling = self._sampling
        ids = None
        if 0 < sampling.top_k < len(scores):
            ids = largest(scores, sampling.top_k)
            scores = scores[ids]
        weights = np.exp((scores - np.float32(best)) / np.float32(sampling.temperature))
        if sampling.min_p > 0:
            weights[weights < sampling.min_p] = 0
        if sampling.top_p < 1:
            kept = nucleus(weights, sampling.top_p)
            ids, weights = kept if ids is None else ids[kept], weights[kept]
        found = drawn(weights, self._noise.uniform(index))
        return found if ids is None else int(ids[found])
