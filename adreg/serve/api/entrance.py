"""What every request passes before a route has it, and what becomes of an error: the same for a server and a gateway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TextIO

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from adreg.errors import AdregError
from adreg.serve.api.access import Access
from adreg.serve.api.errors import answer_http, answer_known, answer_nobody, answer_unknown
from adreg.serve.api.guard import BODY_LIMIT, BodyLimit, Doorkeeper
from adreg.serve.server.keys import Keyring
from adreg.serve.server.metrics import Metrics

Life = Callable[[Starlette], AbstractAsyncContextManager[None]]


def application(
    routes: Sequence[Route], life: Life, keys: Keyring | None, access_log: TextIO | None, metrics: Metrics | None
) -> Starlette:
    """An application of `routes`, open to whoever bears one of `keys`, each request logged and counted."""
    app = Starlette(
        routes=routes,
        lifespan=life,
        middleware=[
            Middleware(Access, log=access_log, metrics=metrics),
            Middleware(Doorkeeper, keys=keys),
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
    app.state.has_key = keys is not None and not keys.open
    app.state.draining = False
    return app
