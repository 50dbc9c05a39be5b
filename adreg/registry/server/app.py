"""The registry as a web application: the guard, the routes, and one place that turns errors into answers."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from adreg import __version__
from adreg.errors import AdregError, UsageError
from adreg.hosts import is_loopback
from adreg.registry.server.answers import BAD_REQUEST, ApiError, answer_http, answer_known, as_api_error
from adreg.registry.server.guard import Guard
from adreg.registry.server.hub_api import hub_router
from adreg.registry.server.hub_catalog import HubCatalog
from adreg.registry.server.limits import Limits
from adreg.registry.server.routes_adapters import adapter_router
from adreg.registry.server.routes_aliases import alias_router
from adreg.registry.server.routes_blobs import blob_router
from adreg.registry.server.routes_lookup import lookup_router
from adreg.registry.server.state import State
from adreg.registry.tokens import Tokens
from adreg.settings import Settings


def create_app(settings: Settings, anonymous_read: bool = False, limits: Limits | None = None) -> FastAPI:
    """The application around the registry in `settings.home`. `anonymous_read`: reading needs no token."""
    state = State.of(settings, limits or Limits())
    tokens = state.registry().tokens
    app = FastAPI(
        title="adreg registry",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(Guard, registry=state.registry, anonymous_read=anonymous_read)],
        exception_handlers={
            AdregError: answer_known,
            HTTPException: answer_http,
            RequestValidationError: _answer_invalid,
            ClientDisconnect: _answer_nobody,
            Exception: _answer_unknown,
        },
    )
    app.state.has_key = tokens.exist()
    for router in (lookup_router(state), adapter_router(state), alias_router(state), blob_router(state)):
        app.include_router(router)
    app.include_router(hub_router(HubCatalog(state)))
    return app


def check_exposure(host: str, tokens: Tokens) -> None:
    """Refuse (`UsageError`) to be reached from other machines while no token was made."""
    if not is_loopback(host) and not tokens.exist():
        hint = "adreg registry token create makes one; or listen on 127.0.0.1"
        raise UsageError(f"{host!r} can be reached from other machines, and no token was made yet", hint)


async def _answer_invalid(_: Request, error: Exception) -> JSONResponse:
    """Path and query parameters that are not what they should be."""
    details = error.errors() if isinstance(error, RequestValidationError) else []
    places = ", ".join(sorted({".".join(map(str, each["loc"])) for each in details}))
    return ApiError(BAD_REQUEST, "bad_request", f"cannot be read: {places}").response()


async def _answer_nobody(_: Request, __: Exception) -> Response:
    """The client has gone; 499 is what logs call that."""
    return Response(status_code=499)


async def _answer_unknown(_: Request, error: Exception) -> JSONResponse:
    """A bug: the server logs the traceback and closes the connection behind this answer."""
    response = as_api_error(error).response()
    response.headers["connection"] = "close"
    return response
