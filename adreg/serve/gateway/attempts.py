"""Finds the upstream that answers: the one at home for the adapter, or another one while nothing has come that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from adreg import __version__
from adreg.errors import AdregError, ConflictError
from adreg.serve.api.chunks import compact
from adreg.serve.api.errors import REQUEST_ID, ApiError
from adreg.serve.gateway.connection import Asked, Headers
from adreg.serve.gateway.errors import Broken, Nonsense, Refusing, Unreached, UpstreamError
from adreg.serve.gateway.gateway import Gateway
from adreg.serve.gateway.pool import Answer
from adreg.serve.gateway.upstream import Upstream
from adreg.serve.models.catalog import ServedModel

JsonObject = dict[str, Any]
SENT = 2
"""How often a request may reach an engine in all: it could be the request that breaks them."""
AGENT = (b"user-agent", f"adreg/{__version__}".encode())
JSON = (b"content-type", b"application/json")


@dataclass(frozen=True)
class Order:
    """What a client wants of which model. `headers` go with it, and the `id` of the request."""

    id: str
    path: str
    body: JsonObject
    model: ServedModel
    headers: Headers


@dataclass(frozen=True)
class Begun:
    """An answer whose `first` piece has come, so that from now on it is this one. `size` is that of the question, in bytes."""

    upstream: Upstream
    answer: Answer
    first: bytes
    size: int


@asynccontextmanager
async def begun(gateway: Gateway, order: Order) -> AsyncIterator[Begun]:
    """Within: an answer to `order`, which ends on the way out.

    Raises the last `UpstreamError` where no upstream gives one, what a dialect raises, and what the admission raises.
    """
    tried: dict[Upstream, AdregError] = {}
    while True:
        upstream = await _next(gateway, order, tried)
        try:
            try:
                found = await _begin(gateway, upstream, order)
            except (UpstreamError, ConflictError) as error:
                _note(gateway, upstream, error)
                tried[upstream] = error
                if not _may_try_another(tried):
                    raise
                continue
            try:
                yield found
            finally:
                found.answer.close()
            return
        finally:
            gateway.admission.give_back(upstream)


async def _next(gateway: Gateway, order: Order, tried: dict[Upstream, AdregError]) -> Upstream:
    try:
        return await gateway.admission.take(order.model.adapter, tried)
    except ApiError:
        if tried:
            raise list(tried.values())[-1] from None
        raise


async def _begin(gateway: Gateway, upstream: Upstream, order: Order) -> Begun:
    body = compact(upstream.dialect.address(order.body, order.model)).encode()
    headers = [JSON, AGENT, (REQUEST_ID.encode(), order.id.encode()), *order.headers]
    asked = Asked(b"POST", order.path.encode(), headers, body, gateway.options.silent_seconds)
    answer = await gateway.pool(upstream).ask(asked)
    try:
        _check(upstream, answer.status)
        _check_adapter(upstream, answer, order.model)
        return Begun(upstream, answer, await answer.piece(), len(body))
    except BaseException:
        answer.close()
        raise


def _check(upstream: Upstream, status: int) -> None:
    """Raise an `UpstreamError` for what is no answer to the client."""
    if status in (502, 503):
        raise Refusing(upstream.name, f"answered {status}")
    if 300 <= status < 400:
        raise Nonsense(upstream.name, f"answered {status}, a redirect; none is followed")
    if status in (401, 403, 407):
        raise Nonsense(upstream.name, f"answered {status}: the gateway's own key does not open it")
    if status >= 600:
        raise Nonsense(upstream.name, f"answered {status}, which HTTP does not know")


def _check_adapter(upstream: Upstream, answer: Answer, model: ServedModel) -> None:
    """Refuse an answer that says itself that another adapter gave it, as adreg's engines do."""
    told = dict(answer.headers).get(b"x-adreg-adapter")
    wanted = (model.adapter or "none").encode()
    if told not in (None, wanted) and model.base_digest and answer.status == 200:
        raise Nonsense(upstream.name, f"answered with the adapter {told!r:.100} in place of {model.adapter}")


def _note(gateway: Gateway, upstream: Upstream, error: AdregError) -> None:
    if isinstance(error, UpstreamError):
        upstream.outcomes[error.code] += 1
        gateway.fleet.doubtful.set()
    if isinstance(error, Unreached):
        upstream.healthy, upstream.why = False, error.why


def _may_try_another(tried: dict[Upstream, AdregError]) -> bool:
    """Whether all that has happened leaves the request as if it had not been asked, or asked once and lost."""
    lost = sum(isinstance(error, Broken) for error in tried.values())
    return lost < SENT and all(isinstance(error, Unreached | Refusing | Broken | ConflictError) for error in tried.values())
