"""Whose turn it is: first come, first admitted, then one token each in turn. Plain Python, no torch, no threads."""

from __future__ import annotations

from collections import deque

from adreg.serve.sequence import Sequence


class Scheduler:
    """At most `max_running` sequences take turns; the others wait in the order in which they came."""

    def __init__(self, max_running: int) -> None:
        self._max_running = max_running
        self._waiting: deque[Sequence] = deque()
        self._running: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def next(self) -> Sequence | None:
        """The sequence that runs one step now; it then stands last in the round."""
        room = min(len(self._waiting), self._max_running - len(self._running))
        admitted = [self._waiting.popleft() for _ in range(room)]
        self._running.extendleft(reversed(admitted))
        if not self._running:
            return None
        self._running.rotate(-1)
        return self._running[-1]

    def remove(self, sequence: Sequence) -> bool:
        """Forget `sequence`; False when it is not here any more."""
        for queue in (self._running, self._waiting):
            if sequence in queue:
                queue.remove(sequence)
                return True
        return False

    def clear(self) -> list[Sequence]:
        """Forget all sequences and return them."""
        everything = [*self._running, *self._waiting]
        self._running.clear()
        self._waiting.clear()
        return everything
