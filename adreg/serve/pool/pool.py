"""The adapters of a running engine: loaded when somebody waits for them, attached between steps, evicted when others wait.

All of it belongs to the engine's thread, except `state` and `states`; the loader's threads only read and prepare. Nothing
here waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from adreg.errors import UsageError
from adreg.formats.adapters.adapter import Adapter
from adreg.serve.executor import Executor, Prepared
from adreg.serve.pool.entry import Entry, State
from adreg.serve.pool.loader import THREADS, Loaded, Loader
from adreg.serve.pool.slots import Patience, Slots
from adreg.serve.watch import Watch

log = logging.getLogger("adreg.serve")
Source = Callable[[str], tuple[str, Adapter]]


class AdapterPool:
    """Adapters by digest in the executor's slots and in `host_bytes` of memory.

    `source` gives the name and the verified adapter of a digest, or raises; it is slow, and called on the loader's threads.
    `pinned` are digests that are loaded at once and stay; it may change. `wake` is called on a loader's thread when `tick`
    has something to do. Raises `UsageError` where pinned adapters would leave no slot for others.
    """

    def __init__(
        self,
        executor: Executor,
        source: Source,
        host_bytes: int,
        pinned: Collection[str] = (),
        watch: Watch | None = None,
        wake: Callable[[], None] = lambda: None,
        patience: Patience = Patience(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if pinned and len(pinned) >= executor.slots:
            raise UsageError(f"{len(pinned)} pinned adapters fill all {executor.slots} slots", "pin fewer, or give more slots")
        self._executor, self._source, self._host_bytes = executor, source, host_bytes
        self._pinned, self._watch, self._patience, self._clock = pinned, watch or Watch(), patience, clock
        self._entries: dict[str, Entry] = {}
        self._queue: dict[str, None] = {}  # digests to be loaded, in the order in which they were asked for
        self._slots = Slots(executor, patience, self._watch.evicted)
        self._loader = Loader(self._load, wake)
        self._pins_known = float("-inf")

    def state(self, digest: str) -> State:
        """Where the adapter is now; any thread may ask."""
        entry = self._entries.get(digest)
        return entry.state if entry else State.REGISTERED

    def states(self) -> dict[str, State]:
        """Where each adapter is that the pool knows of; any thread may ask."""
        return {digest: entry.state for digest, entry in list(self._entries.items())}

    @property
    def loading(self) -> int:
        """How many loads are under way."""
        return self._loader.under_way

    @property
    def held(self) -> int:
        """Bytes of memory that the loaded adapters hold."""
        return sum(entry.nbytes for entry in self._entries.values())

    def preload(self, digest: str) -> None:
        """Load the adapter on the calling thread, before the engine runs. Raises what keeps it from being served."""
        began = self._clock()
        self._entry(digest).state = State.LOADING
        self._take(Loaded(digest, self._load(digest), None, self._clock() - began))
        self._free_memory()

    def request(self, digest: str) -> None:
        """A sequence waits for the adapter from now on, until `acquire` gives it the slot or raises, or it is forgotten."""
        entry = self._entry(digest)
        entry.waiting += 1
        if entry.waiting == 1:
            entry.since = self._clock()
        self._enqueue(entry)
        self._begin_loads()

    def acquire(self, digest: str) -> int | None:
        """The slot for one sequence that waits, which then holds a reference; None while there is none.

        Raises what kept the adapter from being loaded.
        """
        entry = self._entry(digest)
        if entry.state is State.FAILED and entry.error is not None:
            self._stop_waiting(entry)
            raise entry.error.with_traceback(None)
        if entry.slot is None or entry.draining:
            self._enqueue(entry)
            return None
        self._stop_waiting(entry)
        entry.references += 1
        entry.used = self._clock()
        return entry.slot

    def release(self, digest: str) -> None:
        """A sequence that held a reference has ended."""
        entry = self._entries[digest]
        entry.references -= 1
        entry.used = self._clock()

    def forget(self, digest: str) -> None:
        """A sequence that waited does so no more."""
        self._stop_waiting(self._entry(digest))

    def tick(self) -> None:
        """Between two steps: take what was loaded, give slots to those who wait longest, free memory, begin loads."""
        self._follow_pins()
        for loaded in self._loader.finished():
            self._take(loaded)
        self._slots.give(sorted(self._waiting_for_slots(), key=lambda entry: entry.since), self._clock())
        self._free_memory()
        self._begin_loads()

    def close(self) -> None:
        """End the loader's threads; a load that is under way is left to itself."""
        self._loader.close()

    def _load(self, digest: str) -> Prepared:
        name, adapter = self._source(digest)
        return self._executor.prepare(name, adapter)

    def _entry(self, digest: str) -> Entry:
        return self._entries.setdefault(digest, Entry(digest))

    def _enqueue(self, entry: Entry) -> None:
        """Have the adapter loaded, unless it is or cannot be."""
        if entry.state is State.FAILED and self._clock() - entry.failed >= self._patience.retry:
            entry.state, entry.error = State.REGISTERED, None
        if entry.state is State.REGISTERED:
            entry.state = State.LOADING
            self._queue[entry.digest] = None

    def _stop_waiting(self, entry: Entry) -> None:
        entry.waiting = max(0, entry.waiting - 1)
        if entry.digest in self._queue and not entry.wanted:
            del self._queue[entry.digest]
            entry.state = State.REGISTERED

    def _follow_pins(self) -> None:
        now = self._clock()
        if now - self._pins_known < self._patience.pins:
            return
        self._pins_known = now
        try:
            pinned = frozenset(self._pinned)
        except Exception:
            log.exception("the pinned adapters cannot be looked up; those that were stay")
            return
        for digest in pinned:
            entry = self._entry(digest)
            entry.since = entry.since if entry.wanted else now
            self._enqueue(entry)
        for entry in self._entries.values():
            entry.pinned = entry.digest in pinned

    def _take(self, loaded: Loaded) -> None:
        entry, now = self._entries[loaded.digest], self._clock()
        if loaded.prepared is not None:
            entry.state, entry.prepared, entry.used = State.HOST, loaded.prepared, now
        elif loaded.error is not None:
            entry.fail(loaded.error, now)
        self._watch.loaded(loaded.digest, loaded.seconds, loaded.error)

    def _waiting_for_slots(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.state is State.HOST and entry.wanted]

    def _free_memory(self) -> None:
        """Let go of the least recently used adapters that nobody needs, as long as they are too many."""
        over = self.held - self._host_bytes
        unneeded = (entry for entry in self._entries.values() if entry.state is State.HOST and entry.idle)
        for entry in sorted(unneeded, key=lambda entry: entry.used) if over > 0 else ():
            if over > 0:
                over -= entry.nbytes
                del self._entries[entry.digest]

    def _begin_loads(self) -> None:
        """Begin the next loads while there is memory; without, one at a time, when no other adapter waits for a slot."""
        while self._queue and self.loading < THREADS and (self.held < self._host_bytes or self._is_quiet()):
            digest = next(iter(self._queue))
            del self._queue[digest]
            self._loader.begin(digest)

    def _is_quiet(self) -> bool:
        return self.loading == 0 and not self._waiting_for_slots()
