"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from adreg.errors import AdregError
from adreg.serve.api.account import account_of
from adreg.serve.api.answer import Answer, Job
from adreg.serve.api.asking import chat_wanted, check_together, generations
from adreg.serve.api.dialects import CHAT
from adreg.serve.api.errors import as_api_error
from adreg.serve.api.logprobs import chat_logprobs
from adreg.serve.api.messages import Message, Tool
from adreg.serve.api.reading import read
from adreg.serve.api.schemas import ChatRequest
from adreg.serve.api.service import Service, service_of
from adreg.serve.models.catalog import ServedModel


async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation, whole or as a stream. Tools are told to the template; calls come back as the text they are."""
    service = service_of(request)
    asked = await read(ChatRequest, request)
    check_together(asked)
    wanted = chat_wanted(asked)
    model = await service.model(request, asked.model)
    tools = asked.tools if asked.tool_choice != "none" else None
    prompt = await conversation(service, model, asked.messages, tools)
    try:
        asked_for = generations(asked, wanted, [prompt], service.blank(model, account_of(request.scope)), service.engine.limits)
    except AdregError as error:
        raise as_api_error(error, CHAT.prompt) from error
    token_bytes = service.tokenizer(model).token_bytes
    job = Job(CHAT, model, asked, asked_for, [], lambda: partial(chat_logprobs, token_bytes=token_bytes))
    return Answer(service, job)


async def conversation(
    service: Service, model: ServedModel, messages: list[Message], tools: list[Tool] | None
) -> tuple[int, ...]:
    """The token ids of a conversation, as the model's own template writes it. Raises an `ApiError`."""
    said: list[dict[str, Any]] = [message.for_template() for message in messages]
    offered = [tool.for_template() for tool in tools or ()]
    try:
        return await asyncio.to_thread(lambda: service.tokenizer(model).chat(said, offered))
    except AdregError as error:
        raise as_api_error(error, "tools" if str(error).startswith("tools") else CHAT.prompt) from error
