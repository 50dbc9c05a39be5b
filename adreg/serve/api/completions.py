"""POST /v1/completions."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from adreg.serve.api.generating import Dialect, Prompt, respond
from adreg.serve.api.reading import json_body
from adreg.serve.api.schemas import CompletionRequest, parse
from adreg.serve.engine import Engine
from adreg.serve.tokenizer import Tokenizer

# OpenAI's default for this route
DEFAULT_MAX_TOKENS = 16


def _choice(index: int, text: str, reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


COMPLETION = Dialect(
    prompt="prompt",
    id_prefix="cmpl-",
    object="text_completion",
    chunk_object="text_completion",
    choice=_choice,
    first=lambda index: [],
    piece=_choice,
    last=lambda index, reason: _choice(index, "", reason),
)


async def create_completion(request: Request) -> Response:
    """Continue one prompt or several, whole or as a stream."""
    engine: Engine = request.app.state.engine
    asked = parse(CompletionRequest, await json_body(request))
    limit = asked.max_tokens or DEFAULT_MAX_TOKENS
    return await respond(request, engine, COMPLETION, asked, lambda: _prompts(engine.tokenizer, asked.prompt), limit)


def _prompts(tokenizer: Tokenizer, prompt: list[str] | list[int] | list[list[int]]) -> list[Prompt]:
    """A list of ids is one prompt, a list of texts or of lists of ids several."""
    ids = [part for part in prompt if isinstance(part, int)]
    if ids:
        return [tuple(ids)]
    return [tokenizer.encode(part) if isinstance(part, str) else tuple(part) for part in prompt if not isinstance(part, int)]
