"""The one place where errors become HTTP statuses and OpenAI's error bodies."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from adreg.errors import AdregError, BusyError, ContextTooLong, NotFoundError, UsageError

REQUEST_ID = "x-request-id"


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
        return {"error": {"message": str(self), "type": self._type, "param": self.param, "code": self.code}}

    @property
    def _type(self) -> str:
        kinds = {401: "authentication_error", 429: "rate_limit_error", 503: "service_unavailable_error"}
        return kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def as_api_error(error: Exception, param: str | None = None) -> ApiError:
    """`error` as an answer; `param` is the parameter that held the prompt."""
    match error:
        case ApiError():
            return error
        case NotFoundError(kind="model"):
            near = f"; did you mean {' or '.join(error.close)}?" if error.close else ""
            return ApiError(404, f"the model {error.name!r} does not exist{near}", "model", "model_not_found")
        case ContextTooLong():
            return ApiError(400, str(error), param, "context_length_exceeded")
        case UsageError():
            return ApiError(400, f"{error}; {error.hint}" if error.hint else str(error), param, "invalid_value")
        case BusyError(stopping=True):
            return ApiError(503, str(error), code="stopping")
        case BusyError():
            return ApiError(429, str(error), code="queue_full", headers={"Retry-After": str(error.retry_after)})
        case AdregError():
            return ApiError(500, str(error))
    return ApiError(500, "an internal error; the server's log tells more under this request's x-request-id")


async def answer_known(_: Request, error: Exception) -> JSONResponse:
    """Errors that adreg raises on purpose."""
    return as_api_error(error).response()


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
