"""POST of whatever engines answer: the body is read, its model becomes an immutable one, and an upstream is asked."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.requests import Request

from adreg.errors import FormatError
from adreg.formats.strictjson import parse_object
from adreg.serve.api.account import account_of
from adreg.serve.api.errors import ApiError
from adreg.serve.api.reading import json_text
from adreg.serve.gateway.attempts import Order
from adreg.serve.gateway.gateway import gateway_of
from adreg.serve.gateway.relay import Relay

JsonObject = dict[str, Any]
GENERATING = ("/v1/chat/completions", "/v1/completions")
BODY = Path("body")
PASSED_ON = ("traceparent", "tracestate")
"""Headers of the client that go to the upstream; all others, its key before all, stay here."""


async def ask(request: Request) -> Relay:
    """The answer of an upstream. Raises an `ApiError` for a body that is no JSON object or names no model."""
    gateway, account = gateway_of(request), account_of(request.scope)
    body = _object(await json_text(request))
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise ApiError(400, "model: a name is missing", "model", "missing_required_parameter")
    model = await gateway.model(account, name)
    if account.key is not None and gateway.names.salted and request.url.path in GENERATING:
        body["cache_salt"] = _salt(account.key.id, body.get("cache_salt"))
    traced = [(name.encode(), request.headers[name].encode()) for name in PASSED_ON if name in request.headers]
    return Relay(gateway, Order(account.id, request.url.path, body, model, traced))


def _salt(key: str, own: object) -> str:
    """Keeps the prefixes of one key from those of another: the engines behind know one key only, the gateway's."""
    return sha256(json.dumps([key, own]).encode()).hexdigest()


def _object(text: bytes) -> JsonObject:
    """JSON that means one thing only: engines differ in which of two equal keys they take."""
    try:
        return parse_object(text, BODY, "HTTP")
    except FormatError as error:
        raise ApiError(400, f"the body {error.why}", code="invalid_json") from error
