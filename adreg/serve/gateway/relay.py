"""An answer on its way from an upstream to the client: bytes go on as they come.

After the first one a failure is told: in a stream as its last event, else by an answer that ends before its length.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

import anyio
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from adreg.serve.api.account import Account, Usage, account_of
from adreg.serve.api.chunks import as_event
from adreg.serve.gateway.attempts import Begun, Order, begun
from adreg.serve.gateway.connection import Headers
from adreg.serve.gateway.errors import Broken, UpstreamError
from adreg.serve.gateway.gateway import Gateway
from adreg.serve.gateway.passing import Reader, StreamReader, WholeReader
from adreg.serve.models.catalog import ServedModel

log = logging.getLogger("adreg.serve")
KEPT = (b"content-type", b"cache-control", b"retry-after", b"x-accel-buffering")
"""Headers of an answer that go to the client, and of one that is no stream its length."""
EVENTS = b"text/event-stream"
BYTES_PER_TOKEN = 4
"""For the quota of a key, where an answer does not tell how long the prompt was."""


class Relay(Response):
    """What an upstream answers to `order`; it ends when the client goes."""

    def __init__(self, gateway: Gateway, order: Order) -> None:
        super().__init__()
        self._gateway, self._order = gateway, order

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        account, cost = account_of(scope), Usage()
        with self._gateway.quotas.running(account.key, cost):
            try:
                async with staying(receive), begun(self._gateway, self._order) as found:
                    await self._pass_on(found, account, cost, send)
            except UpstreamError as error:
                raise error.answer from error
            except ClientDisconnect:
                account.error = "client_gone"
                if not account.status:
                    raise

    async def _pass_on(self, found: Begun, account: Account, cost: Usage, send: Send) -> None:
        streams = dict(found.answer.headers).get(b"content-type", b"").startswith(EVENTS)
        reader: Reader = StreamReader() if streams else WholeReader()
        headers = _headers(found, self._order.model, streams)
        try:
            if streams:
                account.first_token_at = monotonic()
            await send({"type": "http.response.start", "status": found.answer.status, "headers": headers})
            await _pieces(found, reader, send)
            found.upstream.outcomes["answered"] += 1
        except asyncio.CancelledError:
            found.upstream.outcomes["client_gone"] += 1
            raise
        except UpstreamError as error:
            await self._tell_end(found, error, account, send if streams else None)
        finally:
            self._count(found, reader, account, cost)

    async def _tell_end(self, found: Begun, error: UpstreamError, account: Account, send: Send | None) -> None:
        """Without `send` it is the connection's end that tells it."""
        account.error = error.code
        found.upstream.outcomes[error.code] += 1
        self._gateway.fleet.doubtful.set()
        log.error("request %s: upstream %s", account.id, error)
        if send is not None:
            await send({"type": "http.response.body", "body": as_event(error.answer.body), "more_body": False})

    def _count(self, found: Begun, reader: Reader, account: Account, cost: Usage) -> None:
        """What the answer says that it cost; the key's quota pays an estimate where it says nothing."""
        told, metrics = reader.usage, self._gateway.metrics
        account.usage, label = told, metrics.label(self._order.model.adapter)
        metrics.tokens[label, "prompt"] += told.prompt
        metrics.tokens[label, "completion"] += told.completion
        if account.first_token_at is not None:
            metrics.ttft[label].add(account.first_token_at - account.started)
        untold = found.answer.status == 200 and not told.prompt + told.completion
        cost.prompt = found.size // BYTES_PER_TOKEN if untold else told.prompt
        cost.completion = reader.pieces if untold else told.completion


async def _pieces(found: Begun, reader: Reader, send: Send) -> None:
    """Raises an `UpstreamError` for an answer that is not whole."""
    answer, piece = found.answer, found.first
    while True:
        last = answer.whole
        out = reader.passed(piece, last)
        over = last and reader.ended
        if out or over:
            await send({"type": "http.response.body", "body": out, "more_body": not over})
        if over:
            return
        if last:
            raise Broken(found.upstream.name, "ended its stream without [DONE]")
        piece = await answer.piece()


def _headers(found: Begun, model: ServedModel, streams: bool) -> Headers:
    kept = KEPT if streams else (*KEPT, b"content-length")
    passed = [(name, value) for name, value in found.answer.headers if name in kept]
    passed.append((b"x-adreg-upstream", found.upstream.name.encode()))
    if model.base_digest:
        passed += [(b"x-adreg-base", model.base_digest.encode()), (b"x-adreg-adapter", (model.adapter or "none").encode())]
    return passed


@asynccontextmanager
async def staying(receive: Receive) -> AsyncIterator[None]:
    """Within: as long as the client stays, and no longer. Raises `ClientDisconnect`."""
    with anyio.CancelScope() as scope:
        leaving = asyncio.ensure_future(_when_gone(receive, scope.cancel))
        try:
            yield
        finally:
            leaving.cancel()
    if scope.cancelled_caught:
        raise ClientDisconnect


async def _when_gone(receive: Receive, then: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    then()
