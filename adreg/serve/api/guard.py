"""What every request passes first: an id, the key, the size of its body. Knows ASGI messages, not what they ask.

Plain ASGI, because a wrapper that buffers would break streams and hide that a client has gone.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adreg.hosts import is_loopback
from adreg.serve.api.errors import REQUEST_ID, ApiError

OPEN_PATHS = ("/health",)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


class RequestId:
    """Gives every answer an x-request-id: the client's own if it is plain, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        scope[REQUEST_ID] = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = scope[REQUEST_ID]
            await send(message)

        await self.app(scope, receive, send_with_id)


class Doorkeeper:
    """With a key: lets in whoever bears it. Without: only requests to a loopback name, which a web page cannot forge."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self.app, self._key = app, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await refusal.response()(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if self._key is None:
            host = re.sub(r":\d*$", "", headers.get("host", ""))
            message = f"without an API key only loopback names are served, not {host!r}"
            return None if is_loopback(host) else ApiError(403, message, code="host_not_allowed")
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scope["path"] in OPEN_PATHS or (scheme.lower() == "bearer" and _equal(given.strip(), self._key)):
            return None
        what = "a wrong API key" if given else "no API key"
        return ApiError(401, f"{what} in the Authorization header", None, "invalid_api_key", {"WWW-Authenticate": "Bearer"})


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


def _equal(given: str, key: str) -> bool:
    """Compared in a time that tells nothing of `key`, its length included."""
    return hmac.compare_digest(hashlib.sha256(given.encode()).digest(), hashlib.sha256(key.encode()).digest())
