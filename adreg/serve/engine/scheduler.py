"""Who is admitted and what the next step holds: fair by client, within the means, decode first, prompts in chunks.

Plain Python: no torch, no numpy, no threads. Adapters and memory are asked for through what they promise here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from adreg.serve.engine.memory import MemoryBudget
from adreg.serve.engine.pace import Pace
from adreg.serve.engine.queueing import INPUT_PRICE, OUTPUT_PRICE, FairQueue
from adreg.serve.engine.sequence import Sequence
from adreg.serve.executor import BLOCK

PATIENCE = 2.0
"""Seconds that a sequence lets others pass which fit into memory where it does not; then what becomes free is kept for it."""
Refuse = Callable[[Sequence, Exception], None]


class Adapters(Protocol):
    """What admission wants of the adapter pool, which describes it."""

    def request(self, digest: str) -> None: ...
    def acquire(self, digest: str) -> int | None: ...
    def release(self, digest: str) -> None: ...
    def forget(self, digest: str) -> None: ...


@dataclass(frozen=True)
class Share:
    """How many tokens of a sequence the next step reads."""

    sequence: Sequence
    tokens: int


@dataclass(frozen=True)
class Means:
    """What there is: sequences at a time, bytes for keys and values and how many of them a token takes, and how many rows
    of logits a step gives for prompts whose log-probabilities are wanted, at least a block."""

    running: int
    memory: MemoryBudget
    bytes_per_token: int
    prompt_rows: int

    def price(self, sequence: Sequence) -> int:
        return sequence.room * self.bytes_per_token


class Scheduler:
    """The sequences that wait and run. A step is `admit`, then `plan`; whoever has ended is removed."""

    def __init__(self, means: Means, adapters: Adapters, pace: Pace) -> None:
        self.waiting = FairQueue()
        self.running: list[Sequence] = []
        self.pace = pace
        self._means, self._adapters = means, adapters

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self.waiting

    def add(self, sequence: Sequence) -> None:
        self.waiting.add(sequence)
        if sequence.asked.adapter is not None:
            self._adapters.request(sequence.asked.adapter)

    def admit(self, now: float, refuse: Refuse) -> list[Sequence]:
        """Let in who may run from now on, with memory reserved and the slot of its adapter. `refuse` is told of those
        whose adapter cannot be had; they are gone."""
        admitted = []
        while self.waiting and len(self.running) < self._means.running:
            sequence = self._next(now, refuse)
            if sequence is None:
                break
            self._means.memory.reserve(self._means.price(sequence))
            self.waiting.charge(sequence, INPUT_PRICE * len(sequence.asked.prompt))
            self.waiting.remove(sequence)
            self.running.append(sequence)
            admitted.append(sequence)
        return admitted

    def plan(self) -> list[Share]:
        """One token for everyone who generates, then a chunk of prompts: some of the oldest, the rest to the shortest."""
        shares = [Share(sequence, 1) for sequence in self.running if not sequence.unread]
        if len(shares) < len(self.running):
            shares += self._chunks([sequence for sequence in self.running if sequence.unread], bool(shares))
        for share in shares:
            if share.tokens >= share.sequence.unread:
                self.waiting.charge(share.sequence, OUTPUT_PRICE)
        return shares

    def remove(self, sequence: Sequence) -> bool:
        """Forget `sequence` and give back what it holds; False when it is not here any more."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._means.memory.release(self._means.price(sequence))
        elif not self.waiting.remove(sequence):
            return False
        if sequence.asked.adapter is not None:
            give_back = self._adapters.forget if sequence.slot is None else self._adapters.release
            give_back(sequence.asked.adapter)
        return True

    def _next(self, now: float, refuse: Refuse) -> Sequence | None:
        """The first in turn who can run. One that was too large for too long has the first turn, and nobody else is given
        memory before it runs. One whose adapter is not there yet is passed over; the pool sees to it that it comes."""
        heads = self.waiting.heads()
        late = [sequence for sequence in heads if sequence.passed is not None and now - sequence.passed >= PATIENCE]
        for sequence in sorted(late, key=_passed) + [sequence for sequence in heads if sequence not in late]:
            if not self._has_slot(sequence, refuse):
                continue
            if self._means.memory.fits(self._means.price(sequence)):
                return sequence
            if sequence in late:
                return None
            sequence.passed = now if sequence.passed is None else sequence.passed
        return None

    def _has_slot(self, sequence: Sequence, refuse: Refuse) -> bool:
        adapter = sequence.asked.adapter
        if adapter is None or sequence.slot is not None:
            return True
        try:
            sequence.slot = self._adapters.acquire(adapter)
        except Exception as error:  # noqa: BLE001, whatever is wrong with an adapter is told to whoever asked for it
            self.waiting.remove(sequence)
            refuse(sequence, error)
            return False
        return sequence.slot is not None

    def _chunks(self, prompts: list[Sequence], decoding: bool) -> list[Share]:
        """Shares of `prompts`, the oldest first, within the chunk of this step: a block for the oldest, and what is left to
        those that need least."""
        oldest, budget = prompts[0], self.pace.chunk(decoding)
        granted = {oldest: min(oldest.unread, BLOCK)}
        budget -= granted[oldest]
        for sequence in sorted(prompts, key=_unread):
            before = granted.get(sequence, 0)
            more = min(sequence.unread - before, max(0, budget))
            granted[sequence] = before + more
            budget -= more
        return list(self._cut(granted))

    def _cut(self, granted: dict[Sequence, int]) -> Iterator[Share]:
        """What is granted, down to where a prompt may be cut (its end, or behind a block), and within the rows of logits."""
        rows = self._means.prompt_rows
        for sequence, tokens in granted.items():
            if sequence.asked.prompt_logprobs:
                tokens = min(tokens, rows)
            if tokens < sequence.unread:
                tokens -= (sequence.read + tokens) % BLOCK
            if tokens:
                yield Share(sequence, tokens)
                rows -= tokens if sequence.asked.prompt_logprobs else 0


def _passed(sequence: Sequence) -> float:
    return sequence.passed or 0.0


def _unread(sequence: Sequence) -> int:
    return sequence.unread
