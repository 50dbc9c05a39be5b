"""One generation on its way: what is asked, what the model has read, what has come so far, and who hears of it.

Knows logits and text, no model. Its fields belong to the engine's thread.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from adreg.errors import AdregError, ContextTooLong
from adreg.serve.generation import Deliver, Ended, Generation, Logprob, Prompt, Token
from adreg.serve.sampling.logprobs import prompt_logprobs
from adreg.serve.text.stream import TextStream

if TYPE_CHECKING:
    from adreg.serve.executor import Memory
    from adreg.serve.sampling.sampler import Choice


class Chooser(Protocol):
    """What a sequence wants of its sampler."""

    def choose(self, logits: NDArray[np.float32], generated: list[int]) -> Choice: ...


class Sequence:
    """A generation that waits or runs. `deliver` is called on the engine's thread and must neither block nor raise."""

    def __init__(
        self,
        asked: Generation,
        text: TextStream,
        sampler: Chooser,
        ends: Collection[int],
        deliver: Deliver,
        arrived: float = 0.0,
    ) -> None:
        """`ends` are the tokens that end it; `arrived` is a time of `time.monotonic`."""
        self.asked, self.deliver, self.arrived = asked, deliver, arrived
        self.tokens: list[int] = []
        self.read = 0
        """How many of its tokens the model has read: those of the prompt, then the generated ones."""
        self.cached = 0
        self.memory: Memory = None
        self.slot: int | None = None
        self.passed: float | None = None
        """Since when others are admitted before it because there is no memory for it."""
        self.admitted = arrived
        self.spoke = arrived
        """When its last token came; at first, when it came itself."""
        self._text, self._sampler, self._ends = text, sampler, ends
        self._prompt_logprobs: list[Logprob | None] = [None]

    @property
    def room(self) -> int:
        """The most tokens that it may come to hold in memory."""
        return len(self.asked.prompt) + self.asked.max_tokens

    @property
    def unread(self) -> int:
        """How many tokens of its prompt the model has not read yet; 0 while it generates."""
        return max(0, len(self.asked.prompt) - self.read)

    def next(self, count: int) -> tuple[int, ...]:
        """The next `count` tokens for the model: of the prompt, or the one that was generated last."""
        return self.asked.prompt[self.read : self.read + count] if self.unread else (self.tokens[-1],)

    def outputs(self, count: int) -> int:
        """Behind how many of the next `count` tokens logits are wanted, counted from their end."""
        if self.asked.prompt_logprobs and self.unread:
            return count
        return 1 if count >= self.unread and self.asked.max_tokens else 0

    def advance(self, count: int, logits: NDArray[np.float32]) -> Ended | None:
        """The model has read `count` more tokens and gave `logits` (outputs, vocabulary): tell what follows from them.

        Returns the end, which the caller tells, once it has come to it. Raises `AdregError` for logits that are no numbers.
        """
        start, in_prompt = self.read, self.unread > 0
        self.read += count
        if in_prompt and self.asked.prompt_logprobs:
            self._tell_prompt(start, logits)
        if self.unread:
            return None
        if self.asked.max_tokens == 0:
            return self._ended("length")
        return self.accept(self._sampler.choose(logits[-1], self.tokens))

    def accept(self, choice: Choice) -> Ended | None:
        """Take the next token, tell the listener, and return the end if that was it."""
        self.tokens.append(choice.id)
        early = len(self.tokens) <= self.asked.min_tokens
        if choice.id in self._ends:
            return self._end(choice, "stop", self._text.finish())
        text = self._text.push(choice.id, not early)
        if self._text.stopped:
            return self._end(choice, "stop", text)
        if len(self.tokens) >= self.asked.max_tokens:
            text += self._text.finish()
            return self._end(choice, "stop" if self._text.stopped else "length", text)
        self.deliver(Token(choice.id, text, choice.logprob))
        return None

    def _end(self, choice: Choice, reason: Literal["stop", "length"], text: str) -> Ended:
        self.deliver(Token(choice.id, text, choice.logprob))
        return self._ended(reason)

    def _ended(self, reason: Literal["stop", "length"]) -> Ended:
        return Ended(reason, len(self.asked.prompt), len(self.tokens), self.cached)

    def _tell_prompt(self, start: int, logits: NDArray[np.float32]) -> None:
        """Row i of `logits` foretells the token of the prompt at `start` + i + 1."""
        if not np.isfinite(logits).all():
            raise AdregError("the model computed no finite logits")
        following = self.asked.prompt[start + 1 : self.read + 1]
        self._prompt_logprobs += prompt_logprobs(logits[: len(following)], following, self.asked.logprobs or 0)
        if not self.unread:
            self.deliver(Prompt(tuple(self._prompt_logprobs)))


def answer_budget(context: int, prompt: int, wanted: int | None) -> int:
    """How many tokens may follow a prompt of `prompt` tokens; at least one, unless `wanted` is 0. Raises `ContextTooLong`."""
    room = context - prompt
    if room < (1 if wanted is None else wanted):
        raise ContextTooLong(context, prompt, wanted)
    return room if wanted is None else wanted
