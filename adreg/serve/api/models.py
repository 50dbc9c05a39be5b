"""GET /v1/models and GET /v1/models/{id}: what the asking key can have served, loaded or not."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from adreg.serve.api.account import account_of
from adreg.serve.api.naming import sees
from adreg.serve.api.service import Service, service_of
from adreg.serve.models.catalog import ServedModel
from adreg.serve.pool.entry import State


async def list_models(request: Request) -> JSONResponse:
    """The base first, then every adapter by name and alias."""
    service, key = service_of(request), account_of(request.scope).key
    models = await asyncio.to_thread(list, service.engine.catalog)
    states = service.states()
    data = [_body(service, model, states(model)) for model in models if sees(key, model.id)]
    return JSONResponse({"object": "list", "data": data})


async def retrieve_model(request: Request) -> JSONResponse:
    service = service_of(request)
    model = await service.model(request, request.path_params["id"])
    return JSONResponse(_body(service, model, service.states()(model)))


def _body(service: Service, model: ServedModel, state: State) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": service.engine.created,
        "owned_by": "adreg",
        "root": model.root,
        "parent": model.parent,
        "reference": model.reference,
        "rank": model.rank,
        "state": state,
        "max_model_len": service.engine.limits.context,
    }
