"""The application: routes, what every request passes first, and the engine's life around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

from adreg.errors import AdregError, UsageError
from adreg.serve.api.answers import ClientGone
from adreg.serve.api.chat import create_chat_completion
from adreg.serve.api.completions import create_completion
from adreg.serve.api.errors import answer_http, answer_known, answer_unknown
from adreg.serve.api.guard import BodyLimit, Doorkeeper, RequestId
from adreg.serve.api.models import health, list_models, retrieve_model
from adreg.serve.engine import Engine

BODY_LIMIT = 1 << 20


def create_app(engine: Engine, api_key: str | None = None) -> FastAPI:
    """The application around `engine`, which starts and stops with it. With `api_key` every /v1 request must bear it."""
    if api_key is not None and (not api_key.isascii() or not api_key.isprintable() or " " in api_key or not api_key):
        raise UsageError("an API key is made of visible ASCII characters, without spaces")

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(
        title="adreg",
        openapi_url=None,
        redirect_slashes=False,
        lifespan=life,
        middleware=[Middleware(RequestId), Middleware(Doorkeeper, api_key=api_key), Middleware(BodyLimit, limit=BODY_LIMIT)],
        exception_handlers={
            AdregError: answer_known,
            HTTPException: answer_http,
            ClientDisconnect: _answer_nobody,
            ClientGone: _answer_nobody,
            Exception: answer_unknown,
        },
    )
    app.state.engine = engine
    app.state.has_key = api_key is not None
    app.add_api_route("/v1/models", list_models, methods=["GET"])
    app.add_api_route("/v1/models/{id:path}", retrieve_model, methods=["GET"])
    app.add_api_route("/v1/chat/completions", create_chat_completion, methods=["POST"])
    app.add_api_route("/v1/completions", create_completion, methods=["POST"])
    app.add_api_route("/health", health, methods=["GET"])
    return app


async def _answer_nobody(_: Request, __: Exception) -> Response:
    """The client has gone; 499 is what logs call that."""
    return Response(status_code=499)
