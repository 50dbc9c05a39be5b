"""Bodies as they come: JSON up to a size and a depth, bytes for as long as they keep coming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import Request

from adreg.errors import FormatError
from adreg.formats.strictjson import JsonObject, parse_object
from adreg.registry.server.answers import BAD_REQUEST, ApiError
from adreg.registry.server.limits import Limits
from adreg.registry.server.uploads import TOO_LARGE
from adreg.wire import depth


async def chunks(request: Request, idle_seconds: float) -> AsyncIterator[bytes]:
    """The body's bytes. Raises a 408 when none came for `idle_seconds`."""
    stream = request.stream().__aiter__()
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), idle_seconds)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ApiError(408, "timeout", f"no byte came for {idle_seconds:g} seconds") from None
        yield chunk


async def read_json(request: Request, limits: Limits) -> JsonObject:
    """The JSON object in the body. Raises a 400 for anything else, and a 413 beyond the limit."""
    body = bytearray()
    async for chunk in chunks(request, limits.idle_seconds):
        body += chunk
        if len(body) > limits.json_body:
            raise ApiError(TOO_LARGE, "too_large", f"the body is larger than {limits.json_body} bytes")
    if depth(body) > limits.json_depth:
        raise ApiError(BAD_REQUEST, "bad_request", f"the body is nested deeper than {limits.json_depth} levels")
    try:
        return parse_object(bytes(body), Path("body"), "S-MAN-1")
    except FormatError as error:
        raise ApiError(BAD_REQUEST, "bad_request", f"the body {error.why}") from error
