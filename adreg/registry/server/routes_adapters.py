"""Adapters and their versions over HTTP: listed, read, and taken in when their blobs are here and the audit agrees."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from adreg.audit.basecard import BaseCard
from adreg.errors import IntegrityError, NotFoundError
from adreg.registry.intake import Pushed
from adreg.registry.manifest import Manifest
from adreg.registry.records import VersionRecord
from adreg.registry.registry import Registry
from adreg.registry.server.answers import BAD_REQUEST, CONFLICT, UNPROCESSABLE, ApiError
from adreg.registry.server.callers import Caller, asking
from adreg.registry.server.reading import read_json
from adreg.registry.server.schemas import MANIFEST, NAME_PATH, NAMESPACE_PATH, NUMBER_PATH, answers, json_body
from adreg.registry.server.state import State
from adreg.registry.server.uploads import let_go
from adreg.registry.server.visible import find_version, full_name, missing_blobs, visible
from adreg.registry.store.leases import Lease
from adreg.registry.tokens import Scope

VERSIONS = "/v1/adapters/{namespace}/{name}/versions"


def adapter_router(state: State) -> APIRouter:
    """GET adapters, versions and audits; POST versions."""
    router = APIRouter(tags=["adapters"])

    def adapters(query: Annotated[str, Query(max_length=200)] = "") -> JSONResponse:
        """The adapters that the caller may read, whose name contains `query`, each by its newest version."""
        caller = asking.get()
        caller.require(Scope.READ)
        found = [each for each in visible(caller, state.registry().adapters.all()) if query.lower() in each.adapter]
        return JSONResponse({"adapters": [listed(version) for version in found]})

    def versions(namespace: NAMESPACE_PATH, name: NAME_PATH) -> JSONResponse:
        """The manifests of every version, by number."""
        adapter, registry = full_name(namespace, name), state.registry()
        asking.get().require(Scope.READ, adapter)
        found = registry.adapters.versions(adapter)
        return JSONResponse({"versions": [registry.adapters.manifest(each).as_json() for each in reversed(found)]})

    def version(namespace: NAMESPACE_PATH, name: NAME_PATH, number: NUMBER_PATH) -> JSONResponse:
        """The manifest of one version."""
        adapter, registry = full_name(namespace, name), state.registry()
        asking.get().require(Scope.READ, adapter)
        return JSONResponse(registry.adapters.manifest(find_version(registry, adapter, number)).as_json())

    def audit(namespace: NAMESPACE_PATH, name: NAME_PATH, number: NUMBER_PATH) -> JSONResponse:
        """What the audit finds in a version now, against its base where that is registered here."""
        adapter, registry = full_name(namespace, name), state.registry()
        asking.get().require(Scope.READ, adapter)
        found = find_version(registry, adapter, number)
        return JSONResponse(registry.adapters.audit(found, _card(registry, found)).as_json())

    async def add_version(namespace: NAMESPACE_PATH, name: NAME_PATH, request: Request) -> JSONResponse:
        """Make the manifest's version the next of its name; the same digest again is no change."""
        adapter, caller = full_name(namespace, name), asking.get()
        caller.require(Scope.PUSH, adapter)
        manifest = Manifest.from_json(await read_json(request, state.limits), "manifest")
        if manifest.name != adapter:
            raise ApiError(BAD_REQUEST, "bad_request", f"the manifest is of {manifest.name!r}, not {adapter!r}")
        pushed = await run_in_threadpool(take_in, state, caller, manifest)
        body = {**listed(pushed.version), "new": pushed.new, "audit": pushed.report.as_json()}
        return JSONResponse(body, 201 if pushed.new else 200)

    router.add_api_route("/v1/adapters", adapters, responses=answers(200))
    router.add_api_route(VERSIONS, versions, responses=answers(200))
    router.add_api_route(
        VERSIONS, add_version, methods=["POST"], openapi_extra=json_body(MANIFEST), responses=answers(200, 201, 413)
    )
    router.add_api_route(f"{VERSIONS}/{{number}}", version, responses=answers(200))
    router.add_api_route(f"{VERSIONS}/{{number}}/audit", audit, responses=answers(200))
    return router


def listed(version: VersionRecord) -> dict[str, Any]:
    """A version in a list."""
    return {
        "name": version.adapter,
        "number": version.number,
        "digest": version.digest,
        "size": version.size,
        "created_at": version.created_at,
        "aliases": list(version.aliases),
    }


def take_in(state: State, caller: Caller, manifest: Manifest) -> Pushed:
    """Audit and commit a version whose blobs the caller sent or may read. Raises a 409 that names those it did not."""
    registry = state.registry()
    digests = {file.digest for file in manifest.files.values()}
    with Lease(registry.db, f"receive {manifest.name}") as held:
        for digest in digests:
            registry.blobs.renew(digest)
        missing = missing_blobs(registry, caller, digests)
        if missing:
            message = f"{len(missing)} of the version's blobs are not here"
            raise ApiError(CONFLICT, "missing_blobs", message, "PUT them to /v1/blobs/{digest} first", missing=missing)
        try:
            pushed = registry.adapters.receive(manifest, None, f"http {caller.id}", held)
        except IntegrityError as error:
            raise ApiError(UNPROCESSABLE, "wrong_manifest", str(error)) from error
    let_go(registry.db, caller.id, digests)
    return pushed


def _card(registry: Registry, version: VersionRecord) -> BaseCard | None:
    if version.base is None:
        return None
    try:
        return registry.bases.get(version.base).card
    except NotFoundError:
        return None
