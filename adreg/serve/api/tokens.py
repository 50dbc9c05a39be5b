"""POST /tokenize and POST /detokenize, as vLLM has them."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse

from adreg.serve.api.asking import check_ids
from adreg.serve.api.chat import conversation
from adreg.serve.api.errors import ApiError
from adreg.serve.api.reading import read
from adreg.serve.api.schemas import DetokenizeRequest, TokenizeRequest
from adreg.serve.api.service import service_of


async def tokenize(request: Request) -> JSONResponse:
    """The ids of a text, or of a conversation up to where the assistant answers."""
    service = service_of(request)
    asked = await read(TokenizeRequest, request)
    model = await service.model(request, asked.model)
    if (asked.prompt is None) == (asked.messages is None):
        raise ApiError(400, "give either prompt or messages", "prompt", "invalid_value")
    if asked.messages is not None:
        ids = await conversation(service, model, asked.messages, asked.tools)
    else:
        tokenizer = await asyncio.to_thread(service.tokenizer, model)
        ids = await asyncio.to_thread(tokenizer.encode, asked.prompt or "")
    return JSONResponse({"count": len(ids), "max_model_len": service.engine.limits.context, "tokens": list(ids)})


async def detokenize(request: Request) -> JSONResponse:
    service = service_of(request)
    asked = await read(DetokenizeRequest, request)
    model = await service.model(request, asked.model)
    check_ids(asked.tokens, service.engine.limits.vocabulary, "tokens")
    tokenizer = await asyncio.to_thread(service.tokenizer, model)
    return JSONResponse({"prompt": await asyncio.to_thread(tokenizer.decode, asked.tokens)})
