"""What this server is, and what an id is: a version, a file, or any of a base's ids, by its beginning."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from adreg import __version__
from adreg.errors import NotFoundError, UsageError
from adreg.registry.names import one
from adreg.registry.records import VersionRecord
from adreg.registry.registry import Registry
from adreg.registry.server.callers import Caller, asking
from adreg.registry.server.routes_adapters import listed
from adreg.registry.server.schemas import ID_PATH, answers
from adreg.registry.server.state import State
from adreg.registry.server.visible import BASE_IDS, public_base, visible
from adreg.registry.tokens import Scope
from adreg.registry.versions import find_versions

API = 1
LIMIT = 100
_ID = re.compile(r"(?:(sha256|b3):)?([0-9a-f]{12,64})", re.ASCII)
FILES = (
    "select distinct version_id as id, path, digest from version_file where digest >= ? and digest < ? order by 1, 2 limit 1000"
)


def lookup_router(state: State) -> APIRouter:
    """GET /v1, by-hash and bases."""
    router = APIRouter(tags=["lookup"])

    def about() -> JSONResponse:
        """Which registry this is, and what it speaks."""
        asking.get().require(Scope.READ)
        row = one(state.registry().db, "select value from meta where key = 'registry'", [])
        return JSONResponse({"adreg": __version__, "api": API, "registry": row["value"] if row else ""})

    def document(request: Request) -> JSONResponse:
        """This document."""
        asking.get().require(Scope.READ)
        return JSONResponse(request.app.openapi())

    def by_hash(id: ID_PATH) -> JSONResponse:
        """The versions, files and bases that have this id: sha256 of a version or file, or any id of a base."""
        caller = asking.get()
        caller.require(Scope.READ)
        kind, value = _parsed(id)
        registry = state.registry()
        sha, b3 = kind in (None, "sha256"), kind in (None, "b3")
        found = {
            "versions": _versions(registry, caller, value) if sha else [],
            "files": _files(registry, caller, value) if sha else [],
            "bases": _bases(registry, value) if b3 else [],
        }
        if not any(found.values()):
            raise NotFoundError("id", id)
        return JSONResponse(found)

    def bases() -> JSONResponse:
        """The registered bases, by their ids."""
        asking.get().require(Scope.READ)
        return JSONResponse({"bases": [public_base(base) for base in state.registry().bases.all()]})

    def adapters_of(id: ID_PATH) -> JSONResponse:
        """The versions trained on the weights with this id (or on the registered base that has it as any of its ids)."""
        caller = asking.get()
        caller.require(Scope.READ)
        _, value = _parsed(id)
        registry = state.registry()
        weights = {f"b3:{value}"} | {base["ids"]["weights_id"] for base in _bases(registry, value)}
        found = {version.id: version for each in sorted(weights) for version in _trained_on(registry, each)}
        return JSONResponse({"adapters": [listed(version) for version in visible(caller, found.values())]})

    router.add_api_route("/v1", about, responses=answers(200))
    router.add_api_route("/v1/openapi.json", document, responses=answers(200))
    router.add_api_route("/v1/by-hash/{id}", by_hash, responses=answers(200))
    router.add_api_route("/v1/bases", bases, responses=answers(200))
    router.add_api_route("/v1/bases/{id}/adapters", adapters_of, responses=answers(200))
    return router


def _parsed(text: str) -> tuple[str | None, str]:
    found = _ID.fullmatch(text)
    if not found:
        raise UsageError(f"{text[:80]!r} is no id", "an id is at least 12 hex digits, with sha256: or b3: before them or not")
    return found[1], found[2]


def _between(value: str, kind: str) -> list[str]:
    """The range of ids that begin so: an index serves it, where LIKE would read every row."""
    return [f"{kind}:{value}", f"{kind}:{value}g"]


def _versions(registry: Registry, caller: Caller, value: str) -> list[dict[str, Any]]:
    where = f"version.digest >= ? and version.digest < ? and deleted_at is null order by version.id limit {LIMIT}"
    return [listed(version) for version in visible(caller, find_versions(registry.db, where, _between(value, "sha256")))]


def _files(registry: Registry, caller: Caller, value: str) -> list[dict[str, Any]]:
    found, where = [], "version.id = ? and deleted_at is null"
    for row in registry.db.query(FILES, _between(value, "sha256")):
        versions = visible(caller, find_versions(registry.db, where, [row["id"]]))
        found += [{"digest": row["digest"], "path": row["path"], "reference": version.reference} for version in versions]
    return found[:LIMIT]


def _bases(registry: Registry, value: str) -> list[dict[str, Any]]:
    """The bases with an id that begins so, and which ids do."""
    found = []
    for base in registry.bases.all():
        told = public_base(base)
        matching = [name for name in BASE_IDS if str(told["ids"].get(name) or "").startswith(f"b3:{value}")]
        if matching:
            found.append({**told, "matches": matching})
    return found


def _trained_on(registry: Registry, weights_id: str) -> list[VersionRecord]:
    where = f"version.weights_id >= ? and version.weights_id < ? and deleted_at is null order by version.id limit {LIMIT}"
    return find_versions(registry.db, where, [weights_id, f"{weights_id}g"])
