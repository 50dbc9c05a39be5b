"""One generation: what is asked, what has come so far, and who hears of it. Plain Python, no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from adreg.errors import ContextTooLong
from adreg.serve.text import TextStream


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: greedily at `temperature` 0, else from the `top_p` nucleus, seeded or not."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Generation:
    """What is asked: continue `prompt` (token ids) with the adapter of digest `adapter`, or with the base alone."""

    prompt: tuple[int, ...]
    adapter: str | None
    max_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Token:
    """One generated token and the text that it completes, which may be empty."""

    id: int
    text: str


@dataclass(frozen=True)
class Ended:
    """The last event of a sequence that went well."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Failed:
    """The last event of a sequence that did not."""

    error: Exception


Event = Token | Ended | Failed
Deliver = Callable[[Event], None]


class Sequence:
    """A running generation. `deliver` is called on the engine's thread and must neither block nor raise."""

    def __init__(self, asked: Generation, text: TextStream, deliver: Deliver) -> None:
        self.asked, self.text, self.deliver = asked, text, deliver
        self.tokens: list[int] = []

    @property
    def unseen(self) -> tuple[int, ...]:
        """The tokens that the model has not read yet: the whole prompt, later the last generated one."""
        return (self.tokens[-1],) if self.tokens else self.asked.prompt

    def accept(self, token: int, stop_ids: Collection[int]) -> bool:
        """Take the next token, tell the listener, and say whether the sequence has ended with it."""
        self.tokens.append(token)
        if token in stop_ids:
            return self._end(token, "stop", self.text.finish())
        text = self.text.push(token)
        if self.text.stopped:
            return self._end(token, "stop", text)
        if len(self.tokens) >= self.asked.max_tokens:
            text += self.text.finish()
            return self._end(token, "stop" if self.text.stopped else "length", text)
        self.deliver(Token(token, text))
        return False

    def _end(self, token: int, reason: Literal["stop", "length"], text: str) -> bool:
        self.deliver(Token(token, text))
        self.deliver(Ended(reason, len(self.asked.prompt), len(self.tokens)))
        return True


def answer_budget(context: int, prompt: int, wanted: int | None) -> int:
    """How many tokens may follow a prompt of `prompt` tokens. Raises `ContextTooLong`."""
    room = context - prompt
    if room < 1 or (wanted is not None and wanted > room):
        raise ContextTooLong(context, prompt, wanted)
    return room if wanted is None else wanted
