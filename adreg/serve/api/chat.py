"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from adreg.serve.api.errors import ApiError
from adreg.serve.api.generating import Dialect, respond
from adreg.serve.api.reading import json_body
from adreg.serve.api.schemas import ChatRequest, parse
from adreg.serve.engine import Engine


def _choice(index: int, text: str, reason: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}


def _delta(index: int, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


CHAT = Dialect(
    prompt="messages",
    id_prefix="chatcmpl-",
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    choice=_choice,
    first=lambda index: [_delta(index, {"role": "assistant", "content": ""})],
    piece=lambda index, text: _delta(index, {"content": text}),
    last=lambda index, reason: _delta(index, {}, reason),
)


async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation, whole or as a stream."""
    engine: Engine = request.app.state.engine
    asked = parse(ChatRequest, await json_body(request))
    messages = [message.for_template() for message in asked.messages]
    return await respond(request, engine, CHAT, asked, lambda: [engine.tokenizer.chat(messages)], _limit(asked))


def _limit(asked: ChatRequest) -> int | None:
    """The newer spelling or the older one; both only if they agree."""
    if None not in (asked.max_tokens, asked.max_completion_tokens) and asked.max_tokens != asked.max_completion_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens disagree; give one of them", "max_tokens", "invalid_value")
    return asked.max_completion_tokens or asked.max_tokens
