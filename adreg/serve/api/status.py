"""GET /health, /ready, /version and /metrics, for whoever watches the server; and what is refused by name."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from adreg import __version__
from adreg.serve.api.errors import ApiError
from adreg.serve.api.service import check_sees_all, service_of

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


async def health(_: Request) -> JSONResponse:
    """200: the process lives and answers."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> JSONResponse:
    """200 while the server takes work, else 503."""
    takes_work = service_of(request).engine.alive and not request.app.state.draining
    return JSONResponse({"status": "ready" if takes_work else "stopping"}, 200 if takes_work else 503)


async def version(_: Request) -> JSONResponse:
    return JSONResponse({"version": __version__})


async def metrics(request: Request) -> Response:
    """Prometheus' text."""
    from adreg.serve.api.exposition import exposition

    service = service_of(request)
    check_sees_all(request)
    if service.options.metrics is None:
        raise ApiError(404, "this server counts nothing", code="no_metrics")
    return Response(exposition(service.options.metrics, service.engine, service.options.vllm_names), media_type=PROMETHEUS)


async def embeddings(_: Request) -> Response:
    """Not a 501, which clients would ask again and again."""
    raise ApiError(400, "/v1/embeddings is not supported: this server continues text", code="unsupported_endpoint")
