"""GET /health, /ready and /metrics, for whoever watches the server; and what is refused by name."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from adreg.serve.api.alive import PROMETHEUS
from adreg.serve.api.errors import ApiError
from adreg.serve.api.naming import check_sees_all
from adreg.serve.api.service import service_of


async def health(request: Request) -> JSONResponse:
    """200 while the engine runs. 503 once it has failed: this process will answer nobody again, and should be replaced."""
    alive = service_of(request).engine.alive
    return JSONResponse({"status": "ok" if alive else "engine failed"}, 200 if alive else 503)


async def ready(request: Request) -> JSONResponse:
    """200 while the server takes work, else 503."""
    takes_work = service_of(request).engine.alive and not request.app.state.draining
    return JSONResponse({"status": "ready" if takes_work else "stopping"}, 200 if takes_work else 503)


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
