"""The events of one stream as server-sent bytes in OpenAI's form. What is constant is put together once: a token costs
the quoting of its text and two joins."""

from __future__ import annotations

import json
from collections.abc import Callable
from json.encoder import encode_basestring as quoted
from typing import Any

from adreg.serve.api.account import Usage
from adreg.serve.api.dialects import Dialect
from adreg.serve.api.schemas import Asking
from adreg.serve.generation import Ended, Logprob, Token

JsonObject = dict[str, Any]
LogprobsOf = Callable[[int, "list[tuple[int, Logprob | None]]"], JsonObject]

DONE = b"data: [DONE]\n\n"


def compact(value: Any) -> str:
    """JSON without a space too many."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def as_event(value: JsonObject) -> bytes:
    return f"data: {compact(value)}\n\n".encode()


class Chunks:
    """Writes one answer of one or several choices; `usage` is kept by whoever counts its tokens."""

    def __init__(self, dialect: Dialect, envelope: JsonObject, asked: Asking, usage: Usage, logprobs: LogprobsOf) -> None:
        self._dialect, self._usage, self._logprobs = dialect, usage, logprobs
        self._include_usage, self._continuous_usage = asked.include_usage, asked.continuous_usage
        self._head = f'data: {compact(envelope)[:-1]},"choices":['
        self._tail = '],"usage":null}\n\n' if asked.include_usage else "]}\n\n"
        self._plain_end = f'{dialect.closing},"logprobs":null,"finish_reason":null}}{self._tail}'

    def first(self, choices: int) -> str:
        """What opens every choice, before any text."""
        if self._dialect.first is None:
            return ""
        return "".join(self._choice(index, self._dialect.first, "null", "null") for index in range(choices))

    def echo(self, index: int, text: str, logprobs: JsonObject | None) -> str:
        """The prompt itself, as the first piece of text of a choice."""
        return self._piece(index, text, compact(logprobs))

    def token(self, index: int, token: Token) -> str:
        """A token and what is told of it; nothing, where it completes no text and nothing is."""
        if token.logprob is not None:
            return self._piece(index, token.text, compact(self._logprobs(index, [(token.id, token.logprob)])))
        if not token.text:
            return ""
        if self._continuous_usage:
            return self._piece(index, token.text, "null")
        return f'{self._head}{{"index":{index},{self._dialect.opening}{quoted(token.text)}{self._plain_end}'

    def last(self, index: int, ended: Ended) -> str:
        return self._choice(index, self._dialect.last, "null", f'"{ended.reason}"')

    def usage(self) -> str:
        """The last chunk of all, without a choice, where the client wants it."""
        return f'{self._head}],"usage":{compact(self._usage.body)}}}\n\n' if self._include_usage else ""

    def _piece(self, index: int, text: str, logprobs: str) -> str:
        return self._choice(index, f"{self._dialect.opening}{quoted(text)}{self._dialect.closing}", logprobs, "null")

    def _choice(self, index: int, said: str, logprobs: str, reason: str) -> str:
        tail = f'],"usage":{compact(self._usage.body)}}}\n\n' if self._continuous_usage else self._tail
        return f'{self._head}{{"index":{index},{said},"logprobs":{logprobs},"finish_reason":{reason}}}{tail}'
