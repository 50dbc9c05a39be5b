"""What every request passes before it is read: the key or the host's name, and the size of its body. Plain ASGI; knows
messages, not what they ask."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adreg.hosts import is_loopback
from adreg.serve.api.account import account_of
from adreg.serve.api.errors import ApiError
from adreg.serve.server.keys import Keyring
from adreg.wire import bearer, from_foreign_page, host_name

OPEN_PATHS = ("/health", "/ready")
BODY_LIMIT = 1 << 20


class Doorkeeper:
    """Where keys are needed: lets in whoever bears one. Else: only requests to a loopback name, which a page cannot forge."""

    def __init__(self, app: ASGIApp, keys: Keyring | None) -> None:
        self.app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            try:
                await self._check(scope, headers)
            except ApiError as refusal:
                account_of(scope).error = refusal.code
                await refusal.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _check(self, scope: Scope, headers: Headers) -> None:
        keys = self._keys
        if keys is not None and keys.stale:
            await asyncio.to_thread(keys.refresh)
        if keys is None or keys.open:
            _check_local(headers)
        elif scope["path"] not in OPEN_PATHS:
            _identify(keys, scope, headers)


def _identify(keys: Keyring, scope: Scope, headers: Headers) -> None:
    """Find out whose request it is. Raises an `ApiError` 401."""
    secret = bearer(headers.get("authorization", ""))
    key = keys.find(secret) if secret else None
    if key is None:
        message = f"{'a wrong' if secret else 'no'} API key in the Authorization header"
        raise ApiError(401, message, None, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
    account_of(scope).key = key


def _check_local(headers: Headers) -> None:
    host = host_name(headers.get("host", ""))
    if not is_loopback(host):
        raise ApiError(403, f"without an API key only loopback names are served, not {host!r}", code="host_not_allowed")
    if from_foreign_page(headers):
        raise ApiError(403, "requests from the pages of other sites are refused", code="origin_not_allowed")


class BodyLimit:
    """Refuses bodies above `limit` bytes, by their declared length or else as they come."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        too_large = ApiError(413, f"the body is larger than {self.limit} bytes", code="body_too_large")
        declared = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        if declared.isdigit() and int(declared) > self.limit:
            await too_large.response()(scope, receive, send)
            return
        taken = 0

        async def receive_some() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.limit:
                raise too_large
            return message

        await self.app(scope, receive_some, send)
