"""Who is asked next, and who waits: at most so many requests at a time for each upstream, and a queue that has an end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from time import monotonic

from adreg.errors import BusyError
from adreg.serve.api.errors import ApiError
from adreg.serve.gateway.upstream import Fleet, Upstream

LOOK_SECONDS = 1.0
RETRY_SECONDS = 1
RETRY_AFTER = {"Retry-After": str(RETRY_SECONDS)}


class Admission:
    """Requests come in by turns. `per_upstream` run at a time on each, `waiting` wait, none for longer than `seconds`."""

    def __init__(self, fleet: Fleet, per_upstream: int, waiting: int, seconds: float) -> None:
        self._fleet, self._per_upstream, self._most, self._seconds = fleet, per_upstream, waiting, seconds
        self._queue: deque[asyncio.Event] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def take(self, adapter: str | None, tried: Collection[Upstream]) -> Upstream:
        """The upstream to ask; it counts the request until `give_back`. One that was `tried` is not asked again, and
        whoever has tried one waits no second time.

        Raises an `ApiError` 503 where none is left, and for those who have waited too long; `BusyError` where too many wait.
        """
        if tried:
            found = self._left(adapter, tried)[0]
        else:
            found = (None if self._queue else self._free(adapter)) or await self._in_turn(adapter)
        found.running += 1
        return found

    def give_back(self, upstream: Upstream) -> None:
        """The request is over."""
        upstream.running -= 1
        self._call_next()

    def _left(self, adapter: str | None, tried: Collection[Upstream] = ()) -> list[Upstream]:
        left = [upstream for upstream in self._fleet.ranked(adapter) if upstream not in tried]
        if not left:
            raise ApiError(503, "no upstream takes requests now", None, "no_upstream", RETRY_AFTER)
        return left

    def _free(self, adapter: str | None) -> Upstream | None:
        return next((upstream for upstream in self._left(adapter) if upstream.running < self._per_upstream), None)

    async def _in_turn(self, adapter: str | None) -> Upstream:
        if len(self._queue) >= self._most:
            raise BusyError(f"{self._most} requests wait already", RETRY_SECONDS)
        turn, until = asyncio.Event(), monotonic() + self._seconds
        self._queue.append(turn)
        try:
            while (left := until - monotonic()) > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(turn.wait(), min(left, LOOK_SECONDS))
                turn.clear()
                if self._queue[0] is turn and (found := self._free(adapter)):
                    return found
        finally:
            self._queue.remove(turn)
            self._call_next()
        raise ApiError(503, f"no upstream had room within {self._seconds:g} s", None, "queue_timeout", RETRY_AFTER)

    def _call_next(self) -> None:
        if self._queue:
            self._queue[0].set()
