"""How an engine is asked for a continuation and how it tells one: OpenAI's completions, and llama.cpp's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.load.trace import Request


class Dialect(Protocol):
    """Greedy, streamed, to exactly as many tokens as were asked for."""

    @property
    def path(self) -> str: ...

    def body(self, request: Request, alone: bool) -> dict[str, Any]:
        """The JSON of `request`; `alone` asks for an answer that owes nothing to earlier requests."""

    def text(self, event: dict[str, Any]) -> str:
        """What `event` adds to the answer."""

    def count(self, event: dict[str, Any]) -> int | None:
        """The number of tokens of the whole answer, where `event` tells it."""


@dataclass(frozen=True)
class OpenAI:
    """`/v1/completions` with token ids; an adapter is a model, and the base goes by the name `base`."""

    base: str
    path: str = "/v1/completions"

    def body(self, request: Request, alone: bool) -> dict[str, Any]:
        return {
            "model": request.adapter or self.base, "prompt": request.prompt, "max_tokens": request.tokens,
            "temperature": 0, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip

    def text(self, event: dict[str, Any]) -> str:
        return "".join(choice["text"] for choice in event["choices"])

    def count(self, event: dict[str, Any]) -> int | None:
        usage = event.get("usage")
        return usage["completion_tokens"] if usage and not event["choices"] else None


@dataclass(frozen=True)
class LlamaCpp:
    """`/completion` with token ids and `lora`: adapters go by their place on the server's command line."""

    adapters: Sequence[str]
    path: str = "/completion"

    def body(self, request: Request, alone: bool) -> dict[str, Any]:
        chosen = self.adapters.index(request.adapter) if request.adapter else 0
        return {
            "prompt": request.prompt, "lora": [{"id": chosen, "scale": float(bool(request.adapter))}],
            "n_predict": request.tokens, "temperature": 0, "ignore_eos": True, "stream": True, "cache_prompt": not alone,
        }  # fmt: skip

    def text(self, event: dict[str, Any]) -> str:
        text: str = event.get("content", "")
        return text

    def count(self, event: dict[str, Any]) -> int | None:
        return event["tokens_predicted"] if event.get("stop") else None


def encode(dialect: Dialect, request: Request, alone: bool) -> bytes:
    return json.dumps(dialect.body(request, alone)).encode()
