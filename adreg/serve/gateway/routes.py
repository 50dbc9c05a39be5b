"""What a gateway answers itself: what can be asked for, and how it and its upstreams are."""

from __future__ import annotations

import os
from time import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from adreg import __version__
from adreg.serve.api.account import account_of
from adreg.serve.api.alive import PROMETHEUS
from adreg.serve.api.naming import check_sees_all
from adreg.serve.gateway.gateway import gateway_of


async def list_models(request: Request) -> JSONResponse:
    """Those that the asking key sees."""
    data = await gateway_of(request).names.listed(account_of(request.scope).key)
    return JSONResponse({"object": "list", "data": data})


async def retrieve_model(request: Request) -> JSONResponse:
    return JSONResponse(await gateway_of(request).names.told(account_of(request.scope), request.path_params["id"]))


async def ready(request: Request) -> JSONResponse:
    """200 while the gateway takes work and an upstream does, else 503."""
    upstreams = gateway_of(request).fleet.upstreams
    state = "stopping" if request.app.state.draining else "ready" if any(one.usable for one in upstreams) else "no upstream"
    return JSONResponse({"status": state}, 200 if state == "ready" else 503)


async def metrics(request: Request) -> Response:
    """Prometheus' text."""
    from adreg.serve.gateway.exposition import exposition

    check_sees_all(request)
    return Response(exposition(gateway_of(request)), media_type=PROMETHEUS)


async def glance(request: Request) -> JSONResponse:
    """What the gateway and its upstreams do at this moment."""
    check_sees_all(request)
    gateway = gateway_of(request)
    upstreams = [
        {"name": one.name, "healthy": one.healthy, "why": one.why, "running": one.running, "models": len(one.models)}
        for one in gateway.fleet.upstreams
    ]
    return JSONResponse(
        {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": round(time() - gateway.created, 3),
            "draining": request.app.state.draining,
            "running": sum(one.running for one in gateway.fleet.upstreams),
            "waiting": gateway.admission.waiting,
            "upstreams": upstreams,
        }
    )
