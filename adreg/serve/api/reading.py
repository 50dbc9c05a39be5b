"""The bytes of a JSON request, as one of our bodies. Knows headers, not fields."""

from __future__ import annotations

from starlette.requests import Request

from adreg.serve.api.bodies import Asked, parse
from adreg.serve.api.errors import ApiError
from adreg.wire import depth

DEEPEST = 64


async def read(kind: type[Asked], request: Request) -> Asked:
    """The body of `request`. Raises `ApiError`: as `json_text`, and 400 that names the first parameter at fault."""
    return parse(kind, await json_text(request))


async def json_text(request: Request) -> bytes:
    """The body of `request`, not parsed. Raises `ApiError`: 415 unless it says that it is JSON, which a web page cannot say
    unasked; 400 for one that is nested too deeply."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise ApiError(415, f"the Content-Type must be application/json, not {media!r}", code="invalid_content_type")
    body = await request.body()
    if depth(body) > DEEPEST:
        raise ApiError(400, f"the body is nested deeper than {DEEPEST} levels", code="invalid_json")
    return body
