"""The gateway as an application: routes, what every request passes first, and the watch over the upstreams around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from adreg.errors import AdregError
from adreg.serve.api.access import Access
from adreg.serve.api.alive import health, version
from adreg.serve.api.errors import answer_http, answer_known, answer_nobody, answer_unknown
from adreg.serve.api.guard import BODY_LIMIT, BodyLimit, Doorkeeper
from adreg.serve.gateway.asking import ask
from adreg.serve.gateway.gateway import Gateway, GatewayOptions
from adreg.serve.gateway.names import Names, PassedNames, RegistryNames
from adreg.serve.gateway.prober import Prober
from adreg.serve.gateway.routes import glance, list_models, metrics, ready, retrieve_model
from adreg.serve.gateway.upstream import Fleet
from adreg.serve.models.catalog import Catalog

ASKED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize")
ROUTES = (
    Route("/v1/models", list_models, methods=["GET"]),
    Route("/v1/models/{id:path}", retrieve_model, methods=["GET"]),
    Route("/health", health, methods=["GET"]),
    Route("/ready", ready, methods=["GET"]),
    Route("/version", version, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
    Route("/status", glance, methods=["GET"]),
)


def create_gateway(
    fleet: Fleet, catalog: Catalog | None, options: GatewayOptions = GatewayOptions(), paths: Collection[str] | None = None
) -> Starlette:
    """The application in front of `fleet`. Names mean what `catalog` says; without one they pass as they are.

    `paths` are what is passed on, where not all that engines answer is.
    """
    names: Names = PassedNames(fleet) if catalog is None else RegistryNames(catalog, options.changes)
    gateway = Gateway(fleet, names, options)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        base = None if catalog is None else await asyncio.to_thread(lambda: next(iter(catalog)))
        prober = Prober(gateway, base)
        await prober.look()
        looking = asyncio.create_task(prober.run())
        yield
        looking.cancel()
        gateway.close_pools()

    app = Starlette(
        routes=[*(Route(path, ask, methods=["POST"]) for path in (ASKED if paths is None else paths)), *ROUTES],
        lifespan=life,
        middleware=[
            Middleware(Access, log=options.access_log, metrics=gateway.metrics),
            Middleware(Doorkeeper, keys=options.keys),
            Middleware(BodyLimit, limit=BODY_LIMIT),
        ],
        exception_handlers={
            AdregError: answer_known,
            HTTPException: answer_http,
            ClientDisconnect: answer_nobody,
            Exception: answer_unknown,
        },
    )
    app.router.redirect_slashes = False
    app.state.has_key = options.keys is not None and not options.keys.open
    app.state.gateway, app.state.draining = gateway, False
    return app
