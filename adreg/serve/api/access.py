"""The outermost door: an account for every request, its id on every answer, and one line of JSON in the log at its end.

Plain ASGI, because a wrapper that buffers would break streams and hide that a client has gone. Never logs what was asked,
what was answered, or a key.
"""

from __future__ import annotations

import json
import re
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TextIO

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adreg.serve.api.account import ACCOUNT, Account
from adreg.serve.api.errors import REQUEST_ID
from adreg.serve.server.metrics import Metrics

_PLAIN = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
NO_MODEL = "none"


class Access:
    """Keeps the account of each request. `log` gets the lines, `metrics` the counts; either may be None."""

    def __init__(self, app: ASGIApp, log: TextIO | None, metrics: Metrics | None) -> None:
        self.app, self._log, self._metrics = app, log, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        account = Account(given if _PLAIN.fullmatch(given) else uuid.uuid4().hex)
        scope[REQUEST_ID], scope[ACCOUNT] = account.id, account

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                account.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID.encode(), account.id.encode())]}
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            self._close(scope, account)

    def _close(self, scope: Scope, account: Account) -> None:
        # nothing was sent: a bug, which is answered further out
        account.status = account.status or 500
        if self._metrics and scope["path"].startswith("/v1/"):
            label = self._metrics.label(account.model.adapter) if account.model else NO_MODEL
            self._metrics.requests[label, account.status] += 1
        if self._log:
            # a log on a full disk loses lines; the request was answered all the same
            with suppress(OSError):
                self._log.write(json.dumps(_line(scope, account)) + "\n")
                self._log.flush()


def _line(scope: Scope, account: Account) -> dict[str, Any]:
    first = account.first_token_at
    return {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": account.id,
        "key": account.key.id if account.key else None,
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": account.status,
        "error": account.error,
        "model": account.model.id if account.model else None,
        "adapter": account.model.adapter if account.model else None,
        "prompt_tokens": account.usage.prompt,
        "completion_tokens": account.usage.completion,
        "cached_tokens": account.usage.cached,
        "ttft_ms": None if first is None else round((first - account.started) * 1000, 1),
        "duration_ms": round((monotonic() - account.started) * 1000, 1),
    }
