"""Reads, checks and prepares adapters on a few threads of its own, each adapter apart from the others. Decides nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from adreg.errors import AdregError
from adreg.serve.executor import Prepared

THREADS = 2
log = logging.getLogger("adreg.serve")


@dataclass(frozen=True)
class Loaded:
    """What came of a load: either `prepared` or an error, after so many `seconds`."""

    digest: str
    prepared: Prepared | None
    error: Exception | None
    seconds: float


class Loader:
    """`THREADS` loads at once; `wake` is called on their threads when one is done. One thread gives orders, and counts those
    that are `under_way`."""

    def __init__(self, load: Callable[[str], Prepared], wake: Callable[[], None]) -> None:
        self._load, self._wake = load, wake
        self._orders: SimpleQueue[str | None] = SimpleQueue()
        self._done: SimpleQueue[Loaded] = SimpleQueue()
        self.under_way = 0
        # a load that never comes back must not keep the process from ending
        for number in range(THREADS):
            threading.Thread(target=self._work, name=f"adreg-loader-{number}", daemon=True).start()

    def begin(self, digest: str) -> None:
        self.under_way += 1
        self._orders.put(digest)

    def finished(self) -> Iterator[Loaded]:
        """The loads that are done, each told once."""
        while True:
            try:
                loaded = self._done.get_nowait()
            except Empty:
                return
            self.under_way -= 1
            yield loaded

    def close(self) -> None:
        """End the threads, each after its present load."""
        for _ in range(THREADS):
            self._orders.put(None)

    def _work(self) -> None:
        while (digest := self._orders.get()) is not None:
            self._done.put(self._loaded(digest))
            self._wake()

    def _loaded(self, digest: str) -> Loaded:
        began = time.monotonic()
        try:
            prepared = self._load(digest)
        except Exception as error:
            unexpected = not isinstance(error, AdregError)
            log.warning("adapter %s cannot be served: %s", digest, error, exc_info=unexpected)
            return Loaded(digest, None, error, time.monotonic() - began)
        return Loaded(digest, prepared, None, time.monotonic() - began)
