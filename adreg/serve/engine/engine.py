"""The engine: a thread that generates for many listeners at once, and the few methods that any thread may call.

All state of sequences belongs to the engine's thread; other threads hand it orders.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from adreg.errors import BusyError, ContextTooLong
from adreg.serve.engine.memory import MemoryBudget
from adreg.serve.engine.orders import Orders
from adreg.serve.engine.pace import Pace
from adreg.serve.engine.prefix import PrefixStore
from adreg.serve.engine.scheduler import Means, Scheduler
from adreg.serve.engine.sequence import Sequence
from adreg.serve.engine.worker import Worker
from adreg.serve.executor import Executor
from adreg.serve.generation import Deliver, Generation, Limits, Sampling
from adreg.serve.models.catalog import Catalog
from adreg.serve.pool.entry import State
from adreg.serve.pool.pool import AdapterPool
from adreg.serve.sampling.grammar import Grammars
from adreg.serve.sampling.sampler import Sampler
from adreg.serve.text.stream import TextStream
from adreg.serve.text.tokenizer import Tokenizers
from adreg.serve.watch import Watch

log = logging.getLogger("adreg.serve")
IDLE = 1.0
"""Seconds after which an idle engine looks around, because pins may have changed."""
WAITING = 0.02
"""The same, in seconds, while somebody waits and nobody runs: a slot is given when its time has come."""
MOST_RETRY = 60


@dataclass(frozen=True)
class Parts:
    """What an engine is made of. `ends` are the ids that end a text by themselves, `defaults` how the base is sampled where
    nobody says; the pool wakes through `orders`."""

    executor: Executor
    catalog: Catalog
    tokenizers: Tokenizers
    grammars: Grammars
    pool: AdapterPool
    prefixes: PrefixStore
    orders: Orders
    memory: MemoryBudget
    pace: Pace
    limits: Limits
    prompt_rows: int
    ends: frozenset[int]
    watch: Watch
    defaults: Sampling


@dataclass(frozen=True)
class Stats:
    """A glance at the engine: sequences, bytes, prompt tokens looked for and found in the prefix cache, adapters."""

    running: int
    waiting: int
    kv_used: int
    kv_total: int
    prefix_used: int
    prefix_total: int
    prefix_asked_tokens: int
    prefix_hit_tokens: int
    slots_used: int
    slots_total: int
    adapters: Mapping[str, State]


class Engine:
    """Open one with `load_engine`; between `start` and `close` it runs."""

    def __init__(self, parts: Parts) -> None:
        self.catalog, self.tokenizers, self.limits = parts.catalog, parts.tokenizers, parts.limits
        self.created, self.defaults = int(time.time()), parts.defaults
        self._parts, self._orders, self._ends = parts, parts.orders, parts.ends
        means = Means(parts.limits.running, parts.memory, parts.executor.bytes_per_token, parts.prompt_rows)
        self._scheduler = Scheduler(means, parts.pool, parts.pace)
        self._places = threading.BoundedSemaphore(parts.limits.running + parts.limits.waiting)
        self._worker = Worker(parts.executor, parts.pool, self._scheduler, parts.prefixes, parts.watch, self._places.release)
        self._gate = threading.Lock()
        self._open = False
        self._until = 0.0
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

    def close(self, grace: float = 0.0) -> None:
        """Take no more work, give what there is `grace` seconds to finish, fail the rest, and end the thread for good."""
        with self._gate:
            self._open, self._until = False, time.monotonic() + grace
            thread, self._thread = self._thread, None
        self._orders.wake()
        if thread is not None:
            thread.join()
        self._parts.pool.close()
        self.tokenizers.close()

    def submit(self, asked: Generation, deliver: Deliver) -> Sequence:
        """Queue a generation; `deliver` gets its events on the engine's thread, and must neither block nor raise.

        Raises at once: `BusyError` when full or stopping, `ContextTooLong`, `UsageError` for sampling or a grammar that
        cannot be. A grammar that is new takes its time.
        """
        if len(asked.prompt) + asked.max_tokens > self.limits.context:
            raise ContextTooLong(self.limits.context, len(asked.prompt), asked.max_tokens)
        sequence = self._sequence(asked, deliver)
        with self._gate:
            if not self.alive:
                raise BusyError("the server is stopping", stopping=True)
            if not self._places.acquire(blocking=False):
                why = f"{self.limits.running} requests run and {self.limits.waiting} wait already"
                raise BusyError(why, self._retry_after())
            self._orders.put(partial(self._worker.enter, sequence))
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Drop `sequence` after the current step, without another event; one that has ended is left alone."""
        self._orders.put(partial(self._worker.cancel, sequence))

    def stats(self) -> Stats:
        """How it stands now; any thread may ask."""
        memory, prefixes, slots = self._parts.memory, self._parts.prefixes, self._parts.executor.slots
        adapters = self._parts.pool.states()
        return Stats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            kv_used=memory.used,
            kv_total=memory.total,
            prefix_used=prefixes.nbytes,
            prefix_total=prefixes.limit,
            prefix_asked_tokens=prefixes.asked_tokens,
            prefix_hit_tokens=prefixes.hit_tokens,
            slots_used=sum(state is State.RESIDENT for state in adapters.values()),
            slots_total=slots,
            adapters=adapters,
        )

    def _sequence(self, asked: Generation, deliver: Deliver) -> Sequence:
        # what a grammar has brought to its end cannot go on, whatever else is asked
        endless = asked.ignore_eos and asked.grammar is None
        tokenizer = self.tokenizers.of(asked.adapter)
        ends = asked.stop_ids if endless else asked.stop_ids | self._ends | tokenizer.ends
        grammar = self._parts.grammars.state(asked.grammar) if asked.grammar else None
        sampler = Sampler(asked, self.limits.vocabulary, grammar, ends)
        text = TextStream(tokenizer.decode, asked.prompt, asked.stop)
        return Sequence(asked, text, sampler, ends, deliver, time.monotonic())

    def _retry_after(self) -> int:
        """Seconds until half of those that wait will probably have been admitted."""
        turns = self.limits.waiting / 2 / self.limits.running
        return max(1, min(MOST_RETRY, math.ceil(turns * (self._parts.pace.run or 0.0))))

    def _work(self) -> None:
        try:
            self._orders.carry_out()
            while self._open or (len(self._scheduler) and time.monotonic() < self._until):
                self._worker.turn()
                self._orders.carry_out(self._patience())
        except Exception:
            log.exception("the engine has failed; it takes no more work")
        with self._gate:
            self._open = False
        self._orders.carry_out()
        for sequence in list(self._scheduler):
            self._worker.fail(sequence, BusyError("the server is stopping", stopping=True))

    def _patience(self) -> float:
        if self._scheduler.running:
            return 0.0
        return WAITING if self._scheduler.waiting else IDLE
