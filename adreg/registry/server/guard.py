"""What every request passes first: a plain path, no foreign web page, and a caller who is known.

Plain ASGI, because it must hold for every route, whoever added it, before a byte of the body is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from adreg.errors import AdregError
from adreg.hosts import is_loopback
from adreg.registry.names import acting_for
from adreg.registry.registry import Registry
from adreg.registry.server.answers import BAD_REQUEST, FORBIDDEN, ApiError, as_api_error
from adreg.registry.server.callers import LOCAL, Caller, asking, identify
from adreg.wire import from_foreign_page, host_name

_TRAP = re.compile(rb"%(?:2f|5c|25|0[0-9a-f]|1[0-9a-f]|7f)|[\\\x00-\x20\x7f]", re.IGNORECASE)
OWN_PATHS = "/v1"


class Guard:
    """Lets in requests with a plain path, from a known caller. Sets `asking` for whatever handles the request."""

    def __init__(self, app: ASGIApp, registry: Callable[[], Registry], anonymous_read: bool) -> None:
        self.app, self._registry, self._anonymous_read = app, registry, anonymous_read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            check_path(scope["raw_path"])
            headers = Headers(scope=scope)
            check_origin(headers)
            caller = await run_in_threadpool(self._identify, headers)
            if caller.id == LOCAL:
                check_local(headers, scope)
        except AdregError as error:
            await as_api_error(error).response()(scope, receive, send)
            return
        asking.set(caller)
        acting_for.set(f"{caller.id}@http")
        await self.app(scope, receive, send)

    def _identify(self, headers: Headers) -> Caller:
        return identify(self._registry().tokens, headers.get("authorization", ""), self._anonymous_read)


def check_path(raw: bytes) -> None:
    """Refuse (400) what means one path before decoding and another after: encoded slashes, percents, controls.

    Only for adreg's own routes: the hub's clients do encode slashes, and those routes look names up in a list.
    """
    if raw.startswith(OWN_PATHS.encode()) and _TRAP.search(raw):
        raise ApiError(BAD_REQUEST, "bad_request", "the path holds encoded slashes, percent signs or control characters")


def check_origin(headers: Headers) -> None:
    """Refuse (403) what a web page from elsewhere makes a browser ask."""
    if from_foreign_page(headers):
        raise ApiError(FORBIDDEN, "forbidden", "requests from the pages of other sites are refused")


def check_local(headers: Headers, scope: Scope) -> None:
    """Without tokens only this machine is served, under a name that no web page can forge (DNS rebinding)."""
    host = host_name(headers.get("host", ""))
    client = scope.get("client")
    if not is_loopback(host) or client is None or not is_loopback(client[0]):
        why = f"without tokens only loopback clients and names are served, not {host!r}"
        raise ApiError(FORBIDDEN, "forbidden", why, "adreg registry token create")
