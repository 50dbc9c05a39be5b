"""How /v1/chat/completions and /v1/completions spell the same things, whole and in a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class Dialect:
    """`prompt` is the parameter that holds it. A piece of text in a stream stands between `opening` and `closing`; `first`
    is what stands in a choice before any text comes, and `last` where none comes any more."""

    prompt: str
    id_prefix: str
    object: str
    chunk_object: str
    opening: str
    closing: str
    first: str | None
    last: str

    def choice(self, index: int, text: str, logprobs: JsonObject | None, reason: str) -> JsonObject:
        """A whole answer."""
        said: JsonObject = {"text": text} if self.first is None else {"message": _message(text)}
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": reason}


def _message(text: str) -> JsonObject:
    return {"role": "assistant", "content": text, "refusal": None}


CHAT = Dialect(
    prompt="messages",
    id_prefix="chatcmpl-",
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    opening='"delta":{"content":',
    closing="}",
    first='"delta":{"role":"assistant","content":""}',
    last='"delta":{}',
)
COMPLETION = Dialect(
    prompt="prompt",
    id_prefix="cmpl-",
    object="text_completion",
    chunk_object="text_completion",
    opening='"text":',
    closing="",
    first=None,
    last='"text":""',
)
