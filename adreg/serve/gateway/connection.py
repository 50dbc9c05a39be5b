"""One connection to an upstream: a request out, an answer back as its bytes come. Knows HTTP/1.1, not what is asked.

h11 parses, strictly. A client library around it would take as long for a request as all the rest of the gateway.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import h11

from adreg.serve.gateway.errors import Broken, Nonsense, Silent, UpstreamError

Headers = list[tuple[bytes, bytes]]
HEAD_LIMIT = 1 << 16
UNREAD_LIMIT = 1 << 18
INTERIM = 8
"""Interim answers (1xx) that are skipped before the real one."""


@dataclass(frozen=True)
class Asked:
    """What is sent. `seconds` is how long nothing may come before the upstream counts as silent."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes = b""
    seconds: float = 600.0


class Connection(asyncio.Protocol):
    """Answers one request after the other. Raises `Broken`, `Nonsense` and `Silent`, after which it is closed."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._unread, self._ended, self._seconds = 0, False, 0.0
        self._error: UpstreamError | None = None
        self.whole = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Keep what came for whoever reads; what nobody reads is not taken from the network any more."""
        try:
            self._http.receive_data(data)
        except RuntimeError:  # after its end: bytes that nobody asked for
            self.close()
        self._unread += len(data)
        if self._unread > UNREAD_LIMIT and self._transport is not None:
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def close(self) -> None:
        """At once; what has not been sent is lost."""
        self._ended = True
        if self._transport is not None:
            self._transport.abort()

    @property
    def idle(self) -> bool:
        """Whether another request can be asked: the one before is over, and nothing came behind its answer."""
        return not self._ended and not self._unread and self._http.our_state is h11.IDLE

    async def ask(self, asked: Asked) -> h11.Response:
        """Send a request whose headers give the length of its body; the head of its answer."""
        assert self._transport is not None
        self._seconds, self.whole = asked.seconds, False
        request = h11.Request(method=asked.method, target=asked.target, headers=asked.headers)
        events = (request, h11.Data(data=asked.body), h11.EndOfMessage())
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))
        for _ in range(INTERIM):
            event = await self._next()
            if isinstance(event, h11.Response):
                return self._framed(event)
            if not isinstance(event, h11.InformationalResponse) or event.status_code == 101:
                break
        raise self._failure(Nonsense(self._upstream, "answered with something else than an answer"))

    def _framed(self, head: h11.Response) -> h11.Response:
        """`head`, unless only the connection's end would tell that the answer is whole."""
        told = {name for name, _ in head.headers}
        if head.status_code not in (204, 304) and not told & {b"content-length", b"transfer-encoding"}:
            raise self._failure(Nonsense(self._upstream, "does not say how long its answer is"))
        return head

    async def piece(self) -> bytes:
        """More of the answer's body, all that has come; nothing at its end, where `whole` is true."""
        event = None if self.whole else await self._next()
        found = []
        while isinstance(event, h11.Data):
            found.append(bytes(event.data))
            event = self._parsed_later()
        if isinstance(event, h11.EndOfMessage):
            self._finish()
        return b"".join(found)

    def _parsed_later(self) -> object:
        """What comes next; an error is told once what is good has been passed on."""
        try:
            return self._parsed()
        except UpstreamError as error:
            self._error = error
            return None

    def _finish(self) -> None:
        self.whole = True
        again = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        if self._ended or not again or self._http.trailing_data[0]:
            self.close()
        else:
            self._http.start_next_cycle()
            self._unread = 0

    def _parsed(self) -> object:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            kind = Broken if self._ended else Nonsense
            raise self._failure(kind(self._upstream, f"sent no proper HTTP: {error}")) from error

    async def _next(self) -> object:
        if self._error:
            raise self._error
        while (event := self._parsed()) is h11.NEED_DATA:
            self._unread = 0
            if self._ended:
                raise self._failure(Broken(self._upstream, "closed the connection before its answer was whole"))
            await self._more()
        return event

    async def _more(self) -> None:
        """Until something has come."""
        assert self._transport is not None
        self._transport.resume_reading()
        self._arrived = self._loop.create_future()
        clock = self._loop.call_later(self._seconds, self._give_up)
        try:
            await self._arrived
        finally:
            clock.cancel()
            self._arrived = None

    def _give_up(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            why = f"has sent nothing for {self._seconds:g} s"
            self._arrived.set_exception(self._failure(Silent(self._upstream, why)))

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _failure(self, error: UpstreamError) -> UpstreamError:
        self.close()
        return error
