"""Aliases over HTTP: each has its digest as ETag, and moves only for those who know what it means now."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from adreg.errors import NotFoundError
from adreg.references import check_alias
from adreg.registry.remotes.swap import AliasMoved, aliases_of, remove_alias, swap_alias
from adreg.registry.server.answers import BAD_REQUEST, ApiError
from adreg.registry.server.callers import asking
from adreg.registry.server.reading import read_json
from adreg.registry.server.schemas import ALIAS_PATH, CONDITIONAL, NAME_PATH, NAMESPACE_PATH, POINTER, answers, json_body
from adreg.registry.server.state import State
from adreg.registry.server.visible import full_name, require_digest
from adreg.registry.tokens import Scope

ALIASES = "/v1/adapters/{namespace}/{name}/aliases"
MOVED, UNCONDITIONAL = 412, 428
_ETAG = re.compile(r'"(sha256:[0-9a-f]{64})"', re.ASCII)


def alias_router(state: State) -> APIRouter:
    """GET, PUT and DELETE of aliases."""
    router = APIRouter(tags=["aliases"])

    def aliases(namespace: NAMESPACE_PATH, name: NAME_PATH) -> JSONResponse:
        """Every alias, with the digest that it means and its ETag."""
        adapter = full_name(namespace, name)
        asking.get().require(Scope.READ, adapter)
        found = aliases_of(state.registry(), adapter)
        rows = [{"alias": alias, "digest": digest, "etag": f'"{digest}"'} for alias, digest in found.items()]
        return JSONResponse({"aliases": rows})

    def alias(namespace: NAMESPACE_PATH, name: NAME_PATH, alias: ALIAS_PATH) -> JSONResponse:
        """What one alias means now; the ETag is what If-Match must say to move it."""
        adapter = full_name(namespace, name)
        asking.get().require(Scope.READ, adapter)
        digest = aliases_of(state.registry(), adapter).get(check_alias(alias))
        if digest is None:
            raise NotFoundError("alias", f"{adapter}:{alias}")
        return _pointer(alias, digest)

    async def set_alias(namespace: NAMESPACE_PATH, name: NAME_PATH, alias: ALIAS_PATH, request: Request) -> JSONResponse:
        """Make the alias mean a version, if it still means what If-Match says (If-None-Match: * for a new one)."""
        adapter = full_name(namespace, name)
        asking.get().require(Scope.PUSH, adapter)
        expect = expected(request)
        body = await read_json(request, state.limits)
        if set(body) != {"digest"}:
            raise ApiError(BAD_REQUEST, "bad_request", 'the body is {"digest": "sha256:…"}')
        digest = require_digest(str(body["digest"]))
        with precondition():
            await run_in_threadpool(_swap, state, adapter, check_alias(alias), digest, expect)
        return _pointer(alias, digest)

    def drop_alias(namespace: NAMESPACE_PATH, name: NAME_PATH, alias: ALIAS_PATH, request: Request) -> Response:
        """Remove the alias, if it still means what If-Match says."""
        adapter = full_name(namespace, name)
        asking.get().require(Scope.ADMIN, adapter)
        expect = expected(request)
        if expect is None:
            raise ApiError(UNCONDITIONAL, "unconditional", "say with If-Match what the alias means now")
        with precondition():
            remove_alias(state.registry(), adapter, check_alias(alias), expect)
        return Response(status_code=204)

    one = f"{ALIASES}/{{alias}}"
    router.add_api_route(ALIASES, aliases, responses=answers(200))
    router.add_api_route(one, alias, responses=answers(200))
    router.add_api_route(
        one, set_alias, methods=["PUT"], openapi_extra=json_body(POINTER, conditional=True), responses=answers(200, 412, 428)
    )
    router.add_api_route(
        one, drop_alias, methods=["DELETE"], status_code=204, openapi_extra=CONDITIONAL, responses=answers(204, 412, 428)
    )
    return router


def expected(request: Request) -> str | None:
    """What the caller says the alias means now; None for `If-None-Match: *`. Raises a 428 or 400 without one of them."""
    match, none = request.headers.get("if-match"), request.headers.get("if-none-match")
    if match is None and none is None:
        raise ApiError(UNCONDITIONAL, "unconditional", 'say what you expect: If-Match: "<digest>", or If-None-Match: *')
    if match is None and none == "*":
        return None
    found = _ETAG.fullmatch(match or "")
    if found is None or none is not None:
        raise ApiError(BAD_REQUEST, "bad_request", 'the condition is either If-Match: "sha256:<64 hex>" or If-None-Match: *')
    return found[1]


@contextmanager
def precondition() -> Iterator[None]:
    """A 412 for an alias that moved meanwhile."""
    try:
        yield
    except AliasMoved as error:
        raise ApiError(MOVED, "moved", str(error), error.hint) from error


def _swap(state: State, adapter: str, alias: str, digest: str, expect: str | None) -> None:
    swap_alias(state.registry(), adapter, alias, digest, expect)


def _pointer(alias: str, digest: str) -> JSONResponse:
    return JSONResponse({"alias": alias, "digest": digest}, headers={"ETag": f'"{digest}"'})
