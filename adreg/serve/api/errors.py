"""The one place where errors become HTTP statuses and OpenAI's error bodies."""

from __future__ import annotations

import logging
import math
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from adreg.errors import (
    AdregError,
    AuditRefused,
    BadReference,
    BusyError,
    ConflictError,
    ContextTooLong,
    DeadlineError,
    FormatError,
    IntegrityError,
    MissingExtra,
    NotFoundError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from adreg.serve.api.account import account_of
from adreg.wire import public_message

REQUEST_ID = "x-request-id"
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "service_unavailable_error"}
NOT_LOADABLE = (FormatError, IntegrityError, UnsupportedError, StorageError)


class ApiError(AdregError):
    """An answer other than the one asked for: a status, and the four fields of OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status, self.param, self.code, self.headers = status, param, code, headers or {}
        super().__init__(message)

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def too_many(message: str, code: str, seconds: float) -> ApiError:
    """A 429 that says in how many `seconds` to ask again, rounded up."""
    return ApiError(429, message, code=code, headers={"Retry-After": str(max(1, math.ceil(seconds)))})


def as_api_error(error: Exception, param: str | None = None) -> ApiError:
    """`error` as an answer; `param` is the parameter that held the prompt. A bug tells nothing of itself."""
    if isinstance(error, ApiError):
        return error
    if not isinstance(error, AdregError):
        return ApiError(500, "an internal error; the server's log tells more under this request's x-request-id")
    said = public_message(error)
    match error:
        case NotFoundError(kind="model") | BadReference():
            near = f"; did you mean {' or '.join(error.close)}?" if isinstance(error, NotFoundError) and error.close else ""
            name = error.name if isinstance(error, NotFoundError) else error.text
            return ApiError(404, f"the model {name!r} does not exist{near}", "model", "model_not_found")
        case NotFoundError():
            return ApiError(404, said, "model", "model_not_found")
        case AuditRefused():
            return ApiError(409, _with_hint(said, error.hint), "model", "incompatible_base")
        case ConflictError():
            return ApiError(409, _with_hint(said, error.hint), "model", "conflict")
        case ContextTooLong():
            return ApiError(400, said, param, "context_length_exceeded")
        case UsageError():
            return ApiError(400, _with_hint(said, error.hint), param, "invalid_value")
        case MissingExtra():
            return ApiError(400, f"this server cannot do that: {said}", param, "unsupported_parameter")
        case BusyError(stopping=True):
            return ApiError(503, said, code="stopping", headers={"Retry-After": str(error.retry_after)})
        case DeadlineError():
            return ApiError(504, said, code="deadline_exceeded")
        case BusyError():
            return too_many(said, "queue_full", error.retry_after)
    if isinstance(error, NOT_LOADABLE):
        return ApiError(422, f"the model cannot be loaded: {said}", "model", "model_not_loadable")
    return ApiError(500, said)


def _with_hint(said: str, hint: str) -> str:
    return f"{said}; {hint}" if hint else said


async def answer_known(request: Request, error: Exception) -> JSONResponse:
    """Errors that adreg raises on purpose; what the client is not told of the server goes to the log."""
    found = as_api_error(error)
    account_of(request.scope).error = found.code
    if found.status >= 500:
        logging.getLogger("adreg.serve").error("%s", error)
    return found.response()


async def answer_http(request: Request, error: Exception) -> JSONResponse:
    """What routing refuses: unknown paths and methods."""
    if not isinstance(error, HTTPException):
        raise error
    message = f"{request.method} {request.url.path}: {error.detail}"
    return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()


async def answer_unknown(request: Request, error: Exception) -> JSONResponse:
    """A bug. The traceback goes to the log. No middleware sees this answer, so it brings its own request id, and the
    server closes the connection behind it, so it says so."""
    response = as_api_error(error).response()
    response.headers["connection"] = "close"
    if REQUEST_ID in request.scope:
        response.headers[REQUEST_ID] = request.scope[REQUEST_ID]
    return response


async def answer_nobody(_: Request, __: Exception) -> Response:
    """The client has gone; 499 is what logs call that."""
    return Response(status_code=499)
