"""Who waits, and whose turn it is to be admitted: the client that was served least. Plain Python, no clock.

Virtual token counters (Sheng et al. 2024, "Fairness in Serving Large Language Models"): a client pays for what it
reads and, at twice the price, for what is generated for it. One that comes back starts where the least served of those
that wait stands: it is owed nothing for the time when it asked for nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from adreg.serve.engine.sequence import Sequence

INPUT_PRICE = 1
OUTPUT_PRICE = 2
FORGET_ABOVE = 1024
Client = tuple[str, str | None]


def client_of(sequence: Sequence) -> Client:
    """Those who share the engine fairly: tenant and adapter."""
    return sequence.asked.tenant, sequence.asked.adapter


class FairQueue:
    """Waiting sequences by client, in the order in which they came. A client that it does not know stands at the floor."""

    def __init__(self) -> None:
        self._waiting: dict[Client, deque[Sequence]] = {}
        self._counters: dict[Client, int] = {}
        self._floor = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for line in self._waiting.values() for sequence in line)

    def add(self, sequence: Sequence) -> None:
        client = client_of(sequence)
        if client not in self._waiting:
            self._raise_floor(self._floor)
            self._forget()
            self._waiting[client] = deque()
            self._counters[client] = max(self.counter(client), self._floor)
        self._waiting[client].append(sequence)
        self._length += 1

    def remove(self, sequence: Sequence) -> bool:
        """Take `sequence` out; False where it does not wait."""
        client = client_of(sequence)
        line = self._waiting.get(client)
        if line is None or sequence not in line:
            return False
        line.remove(sequence)
        self._length -= 1
        if not line:
            del self._waiting[client]
            self._raise_floor(self._counters[client])
        return True

    def heads(self) -> list[Sequence]:
        """The first of every client, the least served client's first; among equals, who came first."""
        lines = sorted(self._waiting.items(), key=lambda item: (self._counters[item[0]], item[1][0].arrived))
        return [line[0] for _, line in lines]

    def counter(self, client: Client) -> int:
        return self._counters.get(client, self._floor)

    def charge(self, sequence: Sequence, price: int) -> None:
        client = client_of(sequence)
        self._counters[client] = self.counter(client) + price

    def _raise_floor(self, left: int) -> None:
        """The least served of those that wait is where newcomers start; without any, the one who `left` last."""
        least = min((self._counters[client] for client in self._waiting), default=left)
        self._floor = max(self._floor, least)

    def _forget(self) -> None:
        """Drop the counters that say no more than the floor, before they become many."""
        if len(self._counters) > FORGET_ABOVE + 2 * len(self._waiting):
            kept = {client: count for client, count in self._counters.items() if count > self._floor or client in self._waiting}
            self._counters = kept
