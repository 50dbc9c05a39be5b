"""The engine: one thread that admits, steps and ends sequences, and a few methods that any thread may call.

All state of running sequences belongs to the engine's thread; other threads hand it orders through a queue.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from adreg.errors import BusyError
from adreg.serve.catalog import Catalog
from adreg.serve.runner import Runner
from adreg.serve.scheduler import Scheduler
from adreg.serve.sequence import Deliver, Failed, Generation, Sequence
from adreg.serve.text import TextStream
from adreg.serve.tokenizer import Tokenizer

log = logging.getLogger("adreg.serve")


@dataclass(frozen=True)
class Limits:
    """What the engine takes on: sequences that run in turn, sequences that wait, tokens of context and of vocabulary."""

    running: int
    waiting: int
    context: int
    vocabulary: int


class Engine:
    """Generates for many listeners at once. Open one with `load_engine`; between `start` and `close` it runs."""

    def __init__(
        self, catalog: Catalog, tokenizer: Tokenizer, runner: Runner, stop_ids: frozenset[int], limits: Limits
    ) -> None:
        self.catalog, self.tokenizer, self.runner, self.limits = catalog, tokenizer, runner, limits
        self.created = int(time.time())
        self._stop_ids = stop_ids
        self._scheduler = Scheduler(limits.running)
        self._places = threading.BoundedSemaphore(limits.running + limits.waiting)
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._open = False
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs and takes work."""
        return self._open and self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the engine's thread; a running engine stays as it is."""
        with self._gate:
            if not self._open:
                self._open = True
                self._thread = threading.Thread(target=self._work, name="adreg-engine", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Fail what still runs or waits, and end the thread after its current step."""
        with self._gate:
            self._open = False
            self._orders.put(lambda: None)
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def submit(self, asked: Generation, deliver: Deliver) -> Sequence:
        """Queue a generation; `deliver` gets its events on the engine's thread. Raises `BusyError` at once when full."""
        sequence = Sequence(asked, TextStream(self.tokenizer.decode, asked.prompt, asked.stop), deliver)
        with self._gate:
            if not self.alive:
                raise BusyError("the server is stopping", stopping=True)
            if not self._places.acquire(blocking=False):
                raise BusyError(f"{self.limits.running} requests run and {self.limits.waiting} wait already")
            self._orders.put(partial(self._scheduler.add, sequence))
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Drop `sequence` after the current step, without another event; one that has ended is left alone."""
        self._orders.put(partial(self._drop, sequence))

    def _work(self) -> None:
        while self._open:
            self._obey(wait=len(self._scheduler) == 0)
            sequence = self._scheduler.next()
            if sequence is not None:
                self._step(sequence)
        self._obey(wait=False)
        for sequence in self._scheduler.clear():
            self._free(sequence)
            sequence.deliver(Failed(BusyError("the server is stopping", stopping=True)))

    def _obey(self, wait: bool) -> None:
        """Carry out the orders that have come; with `wait`, sleep until there is one."""
        try:
            while True:
                self._orders.get(block=wait)()
                wait = False
        except queue.Empty:
            return

    def _step(self, sequence: Sequence) -> None:
        try:
            ended = sequence.accept(self.runner.step(sequence), self._stop_ids)
        except Exception as error:
            log.exception("a step failed; only its own request ends")
            self._drop(sequence)
            sequence.deliver(Failed(error))
        else:
            if ended:
                self._drop(sequence)

    def _drop(self, sequence: Sequence) -> None:
        if self._scheduler.remove(sequence):
            self._free(sequence)

    def _free(self, sequence: Sequence) -> None:
        self.runner.release(sequence)
        self._places.release()
