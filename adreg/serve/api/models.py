"""GET /v1/models, GET /v1/models/{id} and GET /health."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from adreg.serve.catalog import ServedModel
from adreg.serve.engine import Engine


async def list_models(request: Request) -> JSONResponse:
    """The base first, then every adapter by name and alias."""
    engine: Engine = request.app.state.engine
    return JSONResponse({"object": "list", "data": [_body(engine, model) for model in engine.catalog]})


async def retrieve_model(request: Request) -> JSONResponse:
    engine: Engine = request.app.state.engine
    return JSONResponse(_body(engine, engine.catalog.resolve(request.path_params["id"])))


async def health(request: Request) -> JSONResponse:
    """200 while the engine takes work, else 503."""
    engine: Engine = request.app.state.engine
    return JSONResponse({"status": "ok" if engine.alive else "stopped"}, 200 if engine.alive else 503)


def _body(engine: Engine, model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": engine.created,
        "owned_by": "adreg",
        "root": model.root,
        "parent": model.parent,
        "max_model_len": engine.limits.context,
    }
