"""The application: its routes, and the engine's life around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Route

from adreg.serve.api.alive import version
from adreg.serve.api.chat import create_chat_completion
from adreg.serve.api.completions import create_completion
from adreg.serve.api.entrance import application
from adreg.serve.api.errors import answer_nobody
from adreg.serve.api.glance import glance
from adreg.serve.api.mail import ClientGone
from adreg.serve.api.models import list_models, retrieve_model
from adreg.serve.api.service import Options, Service
from adreg.serve.api.status import embeddings, health, metrics, ready
from adreg.serve.api.tokens import detokenize, tokenize
from adreg.serve.engine.engine import Engine

ROUTES = (
    Route("/v1/models", list_models, methods=["GET"]),
    Route("/v1/models/{id:path}", retrieve_model, methods=["GET"]),
    Route("/v1/chat/completions", create_chat_completion, methods=["POST"]),
    Route("/v1/completions", create_completion, methods=["POST"]),
    Route("/v1/embeddings", embeddings, methods=["POST"]),
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
    Route("/health", health, methods=["GET"]),
    Route("/ready", ready, methods=["GET"]),
    Route("/version", version, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
    Route("/status", glance, methods=["GET"]),
)


def create_app(engine: Engine, options: Options = Options()) -> Starlette:
    """The application around `engine`, which starts and stops with it."""

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.close)

    app = application(ROUTES, life, options.keys, options.access_log, options.metrics)
    app.add_exception_handler(ClientGone, answer_nobody)
    app.state.service = Service(engine, options)
    return app
