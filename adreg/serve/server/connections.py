"""uvicorn for slow and hostile clients: a cap on connections, an end to every wait, a second signal that ends at once.

uvicorn itself ends only connections that idle between two requests. Knows bytes and time, not what is asked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
CROWDED = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True)
class ClientLimits:
    """How many connections may be open, and how many seconds a client may let the server wait: between two requests
    (`idle`), for the `head` of one, for its `body`, and with `reading` an answer. Computing an answer has no limit here."""

    connections: int = 1000
    idle: int = 30
    head: float = 10
    body: float = 30
    reading: float = 60


class Connection(H11Protocol):
    """One client's connection. A single clock runs for whatever the client is waited for, and ends the connection."""

    def __init__(self, limits: ClientLimits, **settings: Any) -> None:
        super().__init__(**settings)
        self._limits = limits
        self._awaited: tuple[float, str, object] | None = None
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._close_with(CROWDED)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._set_clock(None)

    def _watch(self) -> None:
        """Start the clock anew where something else is waited for than before; bytes that trickle in do not."""
        awaited = self._wait()
        if awaited != self._awaited:
            self._awaited = awaited
            self._set_clock(awaited and awaited[0])

    def _wait(self) -> tuple[float, str, object] | None:
        """Seconds that the client has for what is its turn to do, and what that is; None where it is the server's turn."""
        limits, cycle = self._limits, cast("RequestResponseCycle | None", self.cycle)
        if self.flow.write_paused:
            return limits.reading, "reading", cycle
        if cycle is None:
            return limits.head, "head", cycle
        if cycle.response_complete:
            return limits.idle + limits.head, "head", cycle
        return (limits.body, "body", cycle) if cycle.more_body else None

    def _set_clock(self, seconds: float | None) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clock = None if seconds is None else self.loop.call_later(seconds, self._close_with, LATE)

    def _close_with(self, answer: bytes) -> None:
        """Say why, and close; a client that has left unread what it was sent gets no more."""
        if not self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.transport.write(answer)
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        self.transport.close()


class Server(uvicorn.Server):
    """The first signal drains, and `draining` hears of it at once; the second one, whichever it is, ends what still runs."""

    def __init__(self, config: uvicorn.Config, draining: Callable[[], None]) -> None:
        super().__init__(config)
        self._draining = draining

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            self._loop.call_soon_threadsafe(self._abort)
        self._draining()
        super().handle_exit(sig, frame)

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
