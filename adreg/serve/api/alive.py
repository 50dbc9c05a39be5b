"""GET /health and /version: what every server of adreg answers, whatever it serves."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from adreg import __version__

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


async def health(_: Request) -> JSONResponse:
    """200: the process lives and answers."""
    return JSONResponse({"status": "ok"})


async def version(_: Request) -> JSONResponse:
    return JSONResponse({"version": __version__})
