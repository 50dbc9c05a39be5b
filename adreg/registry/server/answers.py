"""The one place where errors become HTTP statuses and JSON bodies: {"error": {"type", "message", "hint"}}."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from adreg.errors import (
    AdregError,
    AuditRefused,
    BusyError,
    ConflictError,
    FormatError,
    IntegrityError,
    NotFoundError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from adreg.wire import public_message

BAD_REQUEST, FORBIDDEN, NOT_FOUND, CONFLICT, UNPROCESSABLE, FULL = 400, 403, 404, 409, 422, 507
STATUSES: tuple[tuple[type[AdregError], int, str], ...] = (
    (UsageError, BAD_REQUEST, "bad_request"),
    (NotFoundError, NOT_FOUND, "not_found"),
    (AuditRefused, UNPROCESSABLE, "audit_refused"),
    (ConflictError, CONFLICT, "conflict"),
    (FormatError, UNPROCESSABLE, "bad_format"),
    (UnsupportedError, UNPROCESSABLE, "unsupported"),
    (StorageError, FULL, "storage"),
    (BusyError, 429, "busy"),
    (IntegrityError, 500, "integrity"),
)


class ApiError(AdregError):
    """An answer other than the one asked for; `more` are further fields of the error object."""

    def __init__(
        self, status: int, kind: str, message: str, hint: str = "", headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        self.status, self.kind, self.hint, self.headers, self.more = status, kind, hint, headers or {}, more
        super().__init__(message)

    def response(self) -> JSONResponse:
        error = {"type": self.kind, "message": str(self), "hint": self.hint, **self.more}
        return JSONResponse({"error": error}, self.status, self.headers)


def as_api_error(error: Exception) -> ApiError:
    """`error` as an answer. A bug tells nothing of itself to the client."""
    if isinstance(error, ApiError):
        return error
    for kind, status, name in STATUSES:
        if isinstance(error, kind):
            return ApiError(status, name, public_message(error), getattr(error, "hint", ""), _headers(error), **_more(error))
    return ApiError(500, "internal", "an internal error; the server's log tells more")


def _headers(error: AdregError) -> dict[str, str]:
    return {"Retry-After": str(error.retry_after)} if isinstance(error, BusyError) else {}


def _more(error: AdregError) -> dict[str, Any]:
    if isinstance(error, AuditRefused):
        return {"findings": [finding.as_json() for finding in error.findings]}
    return {"rule": error.rule} if isinstance(error, FormatError) else {}


async def answer_known(_: Request, error: Exception) -> JSONResponse:
    """Errors that adreg raises on purpose; what the client is not told of the server goes to the log."""
    found = as_api_error(error)
    if found.status >= 500:
        logging.getLogger(__name__).error("%s", error)
    return found.response()


async def answer_http(request: Request, error: Exception) -> JSONResponse:
    """What routing refuses: unknown paths and methods."""
    if not isinstance(error, HTTPException):
        raise error
    kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return ApiError(error.status_code, kind, str(error.detail), headers=dict(error.headers or {})).response()
