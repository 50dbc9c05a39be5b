"""Blobs over HTTP: read by ranges, sent in one go or on from where it broke. The digest is the name and the proof."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, Response

from adreg.errors import IntegrityError, NotFoundError
from adreg.registry.server.answers import ApiError
from adreg.registry.server.callers import Caller, asking
from adreg.registry.server.reading import chunks
from adreg.registry.server.schemas import DIGEST_PATH, OCTETS, answers
from adreg.registry.server.state import State
from adreg.registry.server.uploads import PIECE, Incoming, announced
from adreg.registry.server.visible import may_read_blob, require_digest
from adreg.registry.tokens import Scope

_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.ASCII)
CACHED = "private, max-age=31536000, immutable"


class BlobResponse(FileResponse):
    """A file in pieces that are worth a thread's while."""

    chunk_size = PIECE


def blob_router(state: State) -> APIRouter:
    """HEAD, GET and PUT of blobs, and HEAD of uploads."""
    router = APIRouter(tags=["blobs"])

    def read_blob(digest: DIGEST_PATH, request: Request) -> Response:
        """The bytes of a blob, or one range of them; only blobs of versions that the caller may read."""
        asking.get().require(Scope.READ)
        return _blob(state, require_digest(digest), request)

    async def send_blob(digest: DIGEST_PATH, request: Request) -> Response:
        """Store a blob. Cut off, it can be gone on with: HEAD /v1/uploads/{digest} tells where, Content-Range says so."""
        caller = asking.get()
        caller.require(Scope.PUSH)
        sent, headers = require_digest(digest), request.headers
        part = announced(sent, caller.id, headers.get("content-length", ""), headers.get("content-range", ""))
        with state.uploads.receive(part) as incoming:
            async for chunk in chunks(request, state.limits.idle_seconds):
                if incoming.take(chunk):
                    await run_in_threadpool(incoming.write)
            new = await run_in_threadpool(_publish, state, incoming)
        return JSONResponse({"digest": sent, "size": part.total, "new": new}, 201 if new else 200)

    def upload_offset(digest: DIGEST_PATH) -> Response:
        """How many bytes of a broken upload are kept for this caller, in the header Upload-Offset."""
        caller = asking.get()
        caller.require(Scope.PUSH)
        return Response(headers={"Upload-Offset": str(_offset(state, caller, require_digest(digest)))})

    path = "/v1/blobs/{digest}"
    router.add_api_route(path, read_blob, methods=["GET"], response_class=Response, responses=answers(200, 206, 304, 416))
    router.add_api_route(path, read_blob, methods=["HEAD"], operation_id="head_blob", responses=answers(200, 206, 304, 416))
    router.add_api_route(path, send_blob, methods=["PUT"], openapi_extra=OCTETS, responses=answers(200, 201, 411, 413))
    router.add_api_route("/v1/uploads/{digest}", upload_offset, methods=["HEAD"], responses=answers(200))
    return router


def _blob(state: State, digest: str, request: Request) -> Response:
    registry = state.registry()
    if not may_read_blob(registry, asking.get(), digest):
        raise NotFoundError("blob", digest)
    path = registry.blobs.path(digest)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise IntegrityError(f"blob {digest} is missing") from None
    headers = {
        "ETag": f'"{digest}"',
        "Cache-Control": CACHED,
        "Content-Disposition": "attachment",
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("if-none-match") == f'"{digest}"':
        return Response(status_code=304, headers=headers)
    check_range(request.headers.get("range"), status.st_size)
    return BlobResponse(path, headers=headers, media_type="application/octet-stream", stat_result=status)


def check_range(text: str | None, size: int) -> None:
    """Raise a 416 for a Range that is not one range within the blob."""
    if text is None:
        return
    found = _RANGE.fullmatch(text)
    start, end, last = found.groups() if found else (None, None, None)
    fits = int(last) > 0 and size > 0 if last else start is not None and int(start) < size
    if not fits or (end and start and int(end) < int(start)):
        headers = {"Content-Range": f"bytes */{size}"}
        raise ApiError(416, "bad_range", f"a range is bytes=START-END within the blob's {size} bytes", headers=headers)


def _publish(state: State, incoming: Incoming) -> bool:
    registry = state.registry()
    incoming.write()
    return state.uploads.publish(incoming, registry.db, registry.blobs)


def _offset(state: State, caller: Caller, digest: str) -> int:
    return state.uploads.partials.size(f"{digest.removeprefix('sha256:')}-{caller.id}")
