"""The gateway as an application: its routes, and the watch over the upstreams around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Route

from adreg.serve.api.alive import health, version
from adreg.serve.api.entrance import application
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

    asked = [Route(path, ask, methods=["POST"]) for path in (ASKED if paths is None else paths)]
    app = application([*asked, *ROUTES], life, options.keys, options.access_log, gateway.metrics)
    app.state.gateway = gateway
    return app
