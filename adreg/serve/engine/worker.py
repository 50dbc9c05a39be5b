"""What the engine's thread does: turn by turn, admit, run a step of the model, and give everyone what came of it.

For one thread; knows neither others nor how requests come. Whatever fails ends as little as it can.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Listing
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from adreg.errors import AdregError, DeadlineError
from adreg.serve.engine.prefix import PrefixStore
from adreg.serve.engine.scheduler import Scheduler, Share
from adreg.serve.engine.sequence import Sequence
from adreg.serve.executor import Executor, Segment
from adreg.serve.generation import Ended, Event, Failed
from adreg.serve.pool.pool import AdapterPool
from adreg.serve.watch import Watch

log = logging.getLogger("adreg.serve")
Result = NDArray[np.float32] | Exception


class Worker:
    """Runs the sequences of `scheduler` on `executor`. `left` is called for each that is gone."""

    def __init__(
        self,
        executor: Executor,
        pool: AdapterPool,
        scheduler: Scheduler,
        prefixes: PrefixStore,
        watch: Watch,
        left: Callable[[], None],
    ) -> None:
        self.executor, self.pool, self.scheduler, self.prefixes = executor, pool, scheduler, prefixes
        self._watch, self._left = watch, left
        self._timed: set[Sequence] = set()

    def enter(self, sequence: Sequence) -> None:
        """A sequence has come; it waits from now on."""
        self._watch.queued(sequence.asked)
        self.scheduler.add(sequence)
        if sequence.asked.deadline is not None:
            self._timed.add(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Drop `sequence` without another event; one that is gone is left alone."""
        if self.scheduler.remove(sequence):
            self._forget(sequence, "cancelled")

    def fail(self, sequence: Sequence, error: Exception, outcome: str = "failed") -> None:
        """End `sequence` with `error`, unless it is gone."""
        if self.scheduler.remove(sequence):
            self._refuse(sequence, error, outcome)

    def turn(self) -> None:
        """Admit who can run, and run one step."""
        self.pool.tick()
        now = time.monotonic()
        self._expire(now)
        for sequence in self.scheduler.admit(now, self._refuse):
            self._begin(sequence, now)
        shares = self.scheduler.plan()
        if shares:
            self._step(shares)

    def _expire(self, now: float) -> None:
        late = [sequence for sequence in self._timed if sequence.asked.deadline is not None and sequence.asked.deadline <= now]
        for sequence in late:
            self.fail(sequence, DeadlineError("the request's time is over"), "deadline")

    def _begin(self, sequence: Sequence, now: float) -> None:
        sequence.admitted = now
        try:
            sequence.memory = self.executor.memory(sequence.room)
            sequence.cached = sequence.read = self.prefixes.load(sequence.asked, sequence.memory)
        except Exception as error:
            log.exception("a sequence could not begin")
            self.fail(sequence, error)
        else:
            self._watch.admitted(sequence.asked, now - sequence.arrived, sequence.cached)

    def _step(self, shares: list[Share]) -> None:
        segments = [_segment(share) for share in shares]
        began = time.monotonic()
        results = self._results(segments)
        now = time.monotonic()
        prefill = sum(share.tokens for share in shares if share.sequence.unread)
        decode = sum(not share.sequence.unread for share in shares)
        self.scheduler.pace.learn(now - began, prefill, decode)
        self._watch.stepped(now - began, prefill, decode)
        for share, result in zip(shares, results, strict=True):
            self._advance(share, result, now)

    def _results(self, segments: Listing[Segment]) -> list[Result]:
        """Logits by segment. Where a step fails, each segment runs alone, so that only the guilty one gets the error."""
        try:
            logits = self.executor.step(segments)
        except Exception as error:
            if len(segments) == 1:
                log.exception("a step failed; only its own request ends")
                return [error]
            log.warning("a step of %d sequences failed (%s); each is tried alone", len(segments), error)
            return [self._results([segment])[0] for segment in segments]
        ends = accumulate((segment.outputs for segment in segments), initial=0)
        return [logits[start:stop] for start, stop in pairwise(ends)]

    def _advance(self, share: Share, result: Result, now: float) -> None:
        sequence = share.sequence
        generated, in_prompt = len(sequence.tokens), sequence.unread > 0
        try:
            if isinstance(result, Exception):
                raise result
            ended = sequence.advance(share.tokens, result)
            if in_prompt and not sequence.unread:
                self.prefixes.keep(sequence.asked, sequence.memory)
        except Exception as error:
            if not isinstance(error, AdregError):
                log.error("a request ends: %s", error, exc_info=error)
            self.fail(sequence, error)
            return
        if len(sequence.tokens) > generated:
            self._watch.token(sequence.asked, generated == 0, now - sequence.spoke)
            sequence.spoke = now
        if ended is not None:
            self._end(sequence, ended)

    def _end(self, sequence: Sequence, ended: Ended) -> None:
        self.scheduler.remove(sequence)
        self.scheduler.pace.finished(sequence.spoke - sequence.admitted)
        self._forget(sequence, ended.reason)
        _tell(sequence, ended)

    def _refuse(self, sequence: Sequence, error: Exception, outcome: str = "failed") -> None:
        self._forget(sequence, outcome)
        _tell(sequence, Failed(error))

    def _forget(self, sequence: Sequence, outcome: str) -> None:
        sequence.memory = None
        self._timed.discard(sequence)
        self._left()
        self._watch.ended(sequence.asked, outcome, len(sequence.asked.prompt), len(sequence.tokens))


def _segment(share: Share) -> Segment:
    sequence = share.sequence
    return Segment(sequence.memory, sequence.read, sequence.next(share.tokens), sequence.slot, sequence.outputs(share.tokens))


def _tell(sequence: Sequence, event: Event) -> None:
    """The last event, which a listener may refuse to take without harm to others."""
    try:
        sequence.deliver(event)
    except Exception:
        log.exception("a listener failed")
