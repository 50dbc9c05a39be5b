"""POST /v1/completions."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from adreg.errors import AdregError
from adreg.serve.api.account import account_of
from adreg.serve.api.answer import Answer, Job
from adreg.serve.api.asking import Ids, check_together, completion_wanted, generations
from adreg.serve.api.dialects import COMPLETION
from adreg.serve.api.errors import as_api_error
from adreg.serve.api.logprobs import CompletionLogprobs
from adreg.serve.api.reading import read
from adreg.serve.api.schemas import CompletionRequest
from adreg.serve.api.service import service_of
from adreg.serve.text.tokenizer import Tokenizer

# OpenAI's default for this route
DEFAULT_MAX_TOKENS = 16


async def create_completion(request: Request) -> Response:
    """Continue one prompt or several, whole or as a stream."""
    service = service_of(request)
    asked = await read(CompletionRequest, request)
    check_together(asked)
    wanted = completion_wanted(asked, DEFAULT_MAX_TOKENS)
    model = await service.model(request, asked.model)
    try:
        tokenizer = await asyncio.to_thread(service.tokenizer, model)
        prompts = await asyncio.to_thread(_prompts, tokenizer, asked.prompt)
        asked_for = generations(asked, wanted, prompts, service.blank(model, account_of(request.scope)), service.engine.limits)
        echoes = _echoes(tokenizer, asked, prompts) if wanted.echo else []
    except AdregError as error:
        raise as_api_error(error, COMPLETION.prompt) from error
    job = Job(COMPLETION, model, asked, asked_for, echoes, lambda: CompletionLogprobs(tokenizer.token_bytes).more)
    return Answer(service, job)


def _prompts(tokenizer: Tokenizer, prompt: list[str] | list[int] | list[list[int]]) -> list[Ids]:
    """A list of ids is one prompt, a list of texts or of lists of ids several."""
    ids = [part for part in prompt if isinstance(part, int)]
    if ids:
        return [tuple(ids)]
    return [tokenizer.encode(part) if isinstance(part, str) else tuple(part) for part in prompt if not isinstance(part, int)]


def _echoes(tokenizer: Tokenizer, asked: CompletionRequest, prompts: list[Ids]) -> list[str]:
    """The texts of the prompts, one for each choice."""
    given = asked.prompt if isinstance(asked.prompt[0], str) else [tokenizer.decode(ids) for ids in prompts]
    return [str(text) for text in given for _ in range(asked.choices)]
