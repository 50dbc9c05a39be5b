"""The connections to one upstream: those that are idle, and new ones. Knows where it listens, not what is asked."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from time import monotonic
from urllib.parse import SplitResult, urlsplit

import h11

from adreg.serve.gateway.connection import Asked, Connection
from adreg.serve.gateway.errors import Broken, Unreached

CONNECT_SECONDS = 5.0
STALE_SECONDS = 1.0
"""Until then a connection that was idle and breaks is taken for one that the upstream had closed already."""
IDLE = 64
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Answer:
    """An upstream's answer whose head has come; its pieces are read once. `close` it in any case."""

    status: int
    headers: list[tuple[bytes, bytes]]
    connection: Connection
    pool: Pool

    async def piece(self) -> bytes:
        """More of the body, as it comes; nothing at its end. Raises an `UpstreamError` where it does not come to its end."""
        return await self.connection.piece()

    @property
    def whole(self) -> bool:
        return self.connection.whole

    def close(self) -> None:
        """Keep the connection for the next request if the answer was read to its end; else end it, and the upstream's work."""
        self.pool.take_back(self.connection)


class Pool:
    """Connections to the engine at `url`, for the event loop in which they are asked."""

    def __init__(self, url: str, key: str | None) -> None:
        self._at: SplitResult = urlsplit(url)
        self._path = self._at.path.encode()
        bearer = [(b"authorization", f"Bearer {key}".encode())] if key else []
        self._own = [(b"host", self._at.netloc.encode()), *bearer]
        self._tls = ssl.create_default_context() if self._at.scheme == "https" else None
        self._idle: list[Connection] = []

    async def ask(self, asked: Asked, fresh: bool = False) -> Answer:
        """Send `asked`, on a new connection where `fresh`; its answer's head. Raises an `UpstreamError`.

        An idle connection that turns out to be closed says nothing of the upstream: then a new one is tried.
        """
        headers = [*self._own, (b"content-length", b"%d" % len(asked.body)), *asked.headers]
        asked = Asked(asked.method, self._path + asked.target, headers, asked.body, asked.seconds)
        if not fresh and (known := self._known()) is not None:
            sent = monotonic()
            try:
                return self._answer(known, await _ask(known, asked))
            except Broken:
                if monotonic() - sent > STALE_SECONDS:
                    raise
        made = await self._connect()
        return self._answer(made, await _ask(made, asked))

    def take_back(self, connection: Connection) -> None:
        if connection.idle and len(self._idle) < IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """End the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _known(self) -> Connection | None:
        while self._idle:
            if (found := self._idle.pop()).idle:
                return found
            found.close()
        return None

    def _answer(self, connection: Connection, head: h11.Response) -> Answer:
        return Answer(head.status_code, list(head.headers), connection, self)

    async def _connect(self) -> Connection:
        """asyncio sets TCP_NODELAY on it."""
        loop, name, host = asyncio.get_running_loop(), self._at.netloc, self._at.hostname or ""
        port = self._at.port or PORTS[self._at.scheme]
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                made = await loop.create_connection(lambda: Connection(name), host, port, ssl=self._tls)
        except TimeoutError as error:
            raise Unreached(name, f"takes no connection within {CONNECT_SECONDS:g} s") from error
        except OSError as error:
            raise Unreached(name, f"takes no connection: {error.strerror or error}") from error
        return made[1]


async def _ask(connection: Connection, asked: Asked) -> h11.Response:
    try:
        return await connection.ask(asked)
    except BaseException:
        connection.close()
        raise
