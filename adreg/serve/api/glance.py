"""GET /status: what the server does at this moment, for `adreg ps`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from time import time

from starlette.requests import Request
from starlette.responses import JSONResponse

from adreg import __version__
from adreg.serve.api.naming import check_sees_all
from adreg.serve.api.service import Service, service_of
from adreg.serve.models.catalog import ServedModel
from adreg.serve.pool.entry import State


async def glance(request: Request) -> JSONResponse:
    """Requests, memory and adapters now, and all tokens generated so far: two looks give a speed."""
    check_sees_all(request)
    service = service_of(request)
    engine = service.engine
    stats, models = engine.stats(), await asyncio.to_thread(list, engine.catalog)
    return JSONResponse(
        {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": round(time() - engine.created, 3),
            "draining": request.app.state.draining,
            "base": models[0].base,
            "base_digest": models[0].base_digest,
            "running": stats.running,
            "waiting": stats.waiting,
            "generated_tokens": _generated(service),
            "slots": {"used": stats.slots_used, "total": stats.slots_total},
            "kv_bytes": {"used": stats.kv_used, "total": stats.kv_total},
            "prefix_bytes": {"used": stats.prefix_used, "total": stats.prefix_total},
            "adapters": _adapters(stats.adapters, models),
        }
    )


def _generated(service: Service) -> int | None:
    """Tokens so far, those of answers under way too: each is either a first one or a later one."""
    if service.options.metrics is None:
        return None
    histograms = [*service.options.metrics.ttft.values(), *service.options.metrics.itl.values()]
    return sum(sum(histogram.counts) for histogram in histograms)


def _adapters(states: Mapping[str, State], models: Sequence[ServedModel]) -> list[dict[str, str]]:
    """Those that somebody has asked for, by the name of their version."""
    names = {model.adapter: model.reference or model.id for model in reversed(models) if model.adapter}
    rows = [{"name": names.get(digest, "-"), "digest": digest, "state": str(state)} for digest, state in states.items()]
    return sorted(rows, key=lambda row: row["name"])
