"""From the engine's thread to the event loop: the events of one HTTP request's sequences, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from fastapi import Request

from adreg.serve.api.errors import as_api_error
from adreg.serve.engine import Engine
from adreg.serve.sequence import Ended, Event, Failed, Generation, Sequence, Token

Result = TypeVar("Result")


class ClientGone(Exception):
    """The client has closed its connection; nobody waits for an answer."""


class Answers:
    """The running generations of one request, by index. Either all are submitted or none (`BusyError`)."""

    def __init__(self, engine: Engine, generations: Iterable[Generation]) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._sequences: list[Sequence] = []
        try:
            for index, generation in enumerate(generations):
                self._sequences.append(engine.submit(generation, partial(self._deliver, index)))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Stop what still runs; harmless after the end."""
        for sequence in self._sequences:
            self._engine.cancel(sequence)

    async def events(self) -> AsyncIterator[tuple[int, Token | Ended]]:
        """Index and event, until every generation has ended. Raises the `ApiError` of the first that fails."""
        left = len(self._sequences)
        while left:
            index, event = await self._events.get()
            if isinstance(event, Failed):
                raise as_api_error(event.error) from event.error
            yield index, event
            left -= isinstance(event, Ended)

    def _deliver(self, index: int, event: Event) -> None:
        # a closed loop has no listener left; its server is gone
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """What `work` returns; raises `ClientGone` and cancels it as soon as the client closes the connection."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
