"""The bytes of a JSON request. Knows headers, not fields."""

from __future__ import annotations

from fastapi import Request

from adreg.serve.api.errors import ApiError


async def json_body(request: Request) -> bytes:
    """The body of `request`. Raises `ApiError` 415 unless it says that it is JSON; a web page cannot say so unasked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"the Content-Type must be application/json, not {kind!r}", code="invalid_content_type")
    return await request.body()
