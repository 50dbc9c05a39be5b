"""Which adapters are in the executor's slots, and which one goes when another waits: the least recently used, not a hot one.

Who waits too long makes a busy adapter drain. Knows entries and time; loads nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adreg.serve.executor import Executor
from adreg.serve.pool.entry import Entry, State

log = logging.getLogger("adreg.serve")


@dataclass(frozen=True)
class Patience:
    """How long, in seconds: an adapter that was just used `keep`s its slot, unless another has `wait`ed for one; one that
    waits makes a busy adapter `drain`; a failure is remembered until a `retry`; and until `pins` are looked up again."""

    keep: float = 0.25
    wait: float = 0.5
    drain: float = 2.0
    retry: float = 5.0
    pins: float = 1.0


class Slots:
    """The resident adapters. `evicted` is told of each that leaves its slot."""

    def __init__(self, executor: Executor, patience: Patience, evicted: Callable[[str], None]) -> None:
        self._executor, self._patience, self._evicted = executor, patience, evicted
        self._residents: dict[str, Entry] = {}

    def give(self, wanting: Sequence[Entry], now: float) -> None:
        """Attach those of `wanting`, longest waiting first, for whom there is a slot or one that may be freed."""
        left = list(wanting)
        while left and self._has_room_for(left[0], now):
            self._attach(left.pop(0), now)
        starving = sum(now - entry.since >= self._patience.drain for entry in left)
        self._drain(starving)

    def _has_room_for(self, entry: Entry, now: float) -> bool:
        if len(self._residents) < self._executor.slots:
            return True
        running = any(resident.references for resident in self._residents.values())
        patient = running and now - entry.since < self._patience.wait
        recent = now - self._patience.keep if patient else now
        free = [one for one in self._residents.values() if one.references == 0 and (one.draining or not one.wanted)]
        going = [one for one in free if one.draining or one.used <= recent]
        if not going:
            return False
        self._detach(min(going, key=lambda one: (not one.draining, one.used)), now)
        return True

    def _drain(self, starving: int) -> None:
        """Let as many residents drain as adapters starve, those first that have had their slots longest."""
        able = sorted(
            (one for one in self._residents.values() if not one.pinned), key=lambda one: (not one.draining, one.attached)
        )
        for index, resident in enumerate(able):
            resident.draining = index < starving

    def _attach(self, entry: Entry, now: float) -> None:
        assert entry.prepared is not None
        try:
            entry.slot = self._executor.attach(entry.prepared)
        except Exception as error:
            log.exception("adapter %s cannot be attached", entry.digest)
            entry.fail(error, now)
        else:
            entry.state, entry.attached = State.RESIDENT, now
            self._residents[entry.digest] = entry

    def _detach(self, entry: Entry, now: float) -> None:
        assert entry.slot is not None
        self._executor.detach(entry.slot)
        del self._residents[entry.digest]
        entry.state, entry.slot, entry.draining = State.HOST, None, False
        entry.since = now  # whoever waits for it stands behind those who waited for its slot
        self._evicted(entry.digest)
