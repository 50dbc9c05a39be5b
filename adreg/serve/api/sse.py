"""Server-sent events in OpenAI's form: `data: <json>`, an error as the last one, or `data: [DONE]`."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from adreg.errors import AdregError
from adreg.serve.api.answers import Answers
from adreg.serve.api.errors import as_api_error

log = logging.getLogger("adreg.serve")
DONE = b"data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """Sends `chunks` as events; whatever ends it, the generations behind them are cancelled."""

    def __init__(self, answers: Answers, chunks: AsyncIterator[dict[str, Any]], headers: dict[str, str]) -> None:
        self._answers = answers
        headers = {**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_events(chunks), headers=headers, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.cancel()


async def _events(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """The status has been sent already, so an error can only be told as an event, after which nothing comes."""
    try:
        async for chunk in chunks:
            yield _event(chunk)
    except Exception as error:
        if not isinstance(error, AdregError):
            log.exception("a stream failed")
        yield _event(as_api_error(error).body)
    else:
        yield DONE


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
