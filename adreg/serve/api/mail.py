"""From the engine's thread to the event loop: one wake-up carries all events that have come by then, whoever they are for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import monotonic

from starlette.types import Receive

from adreg.serve.api.errors import as_api_error
from adreg.serve.engine.engine import Engine
from adreg.serve.engine.sequence import Sequence
from adreg.serve.generation import Ended, Event, Failed, Generation, Prompt, Token

Told = tuple[int, Prompt | Token | Ended]


class ClientGone(Exception):
    """The client has closed its connection; nobody waits for an answer."""


class Mailroom:
    """Hands events out on the event loop in which it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._post: deque[tuple[Answers, int, Event]] = deque()
        self._called = False

    def deliver(self, answers: Answers, index: int, event: Event) -> None:
        """Called on the engine's thread, for every token."""
        self._post.append((answers, index, event))
        if not self._called:
            self._called = True
            # a closed loop has no listener left; its server is gone
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        # before the post is taken: whatever comes from now on calls again
        self._called = False
        while self._post:
            answers, index, event = self._post.popleft()
            answers.put(index, event)


class Answers:
    """The running generations of one request, by index, and what they have told. One task listens."""

    def __init__(self, engine: Engine, mailroom: Mailroom) -> None:
        self._engine, self._mailroom = engine, mailroom
        self._sequences: list[Sequence] = []
        self._told: list[Told] = []
        self._left = 0
        self._error: Exception | None = None
        self._heard = asyncio.Event()
        self._patient = False
        self.first_token_at: float | None = None

    def submit(self, generations: Collection[Generation]) -> None:
        """Start `generations`, all or none. Any thread may call it. Raises `BusyError`."""
        self._left = len(generations)
        try:
            for index, generation in enumerate(generations):
                deliver = partial(self._mailroom.deliver, self, index)
                self._sequences.append(self._engine.submit(generation, deliver))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Stop what still runs; harmless after the end."""
        if self._left:
            for sequence in self._sequences:
                self._engine.cancel(sequence)

    def abandon(self) -> None:
        """The client has gone: stop, and tell the listener."""
        self.cancel()
        self._error = ClientGone()
        self._heard.set()

    def put(self, index: int, event: Event) -> None:
        """Take an event, on the event loop."""
        if isinstance(event, Failed):
            self._error = self._error or event.error
        else:
            self._told.append((index, event))
            if isinstance(event, Ended):
                self._left -= 1
            elif self.first_token_at is None and isinstance(event, Token):
                self.first_token_at = monotonic()
        if not self._patient or not self._left or self._error:
            self._heard.set()

    async def some(self) -> list[Told]:
        """What has come since the last call, at least one event; empty after the end.

        Raises the `ApiError` of the first generation that fails, and `ClientGone`.
        """
        return await self._take(patient=False)

    async def all(self) -> list[Told]:
        """Everything, at the end. Raises as `some` does."""
        return await self._take(patient=True)

    async def _take(self, patient: bool) -> list[Told]:
        self._patient = patient
        while self._left and not self._error and (patient or not self._told):
            self._heard.clear()
            await self._heard.wait()
        if isinstance(self._error, ClientGone):
            raise self._error
        if self._error:
            raise as_api_error(self._error) from self._error
        told, self._told = self._told, []
        return told


@asynccontextmanager
async def listening(receive: Receive, answers: Answers) -> AsyncIterator[None]:
    """Within: the generations end as soon as the client has gone; in any case they end on the way out."""
    leaving = asyncio.ensure_future(_until_gone(receive, answers))
    try:
        yield
    finally:
        leaving.cancel()
        answers.cancel()


async def _until_gone(receive: Receive, answers: Answers) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answers.abandon()
