"""What other threads want of the engine's thread: calls that it carries out in their order, between two steps."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue

Order = Callable[[], None]


class Orders:
    """A letter box: any thread puts, one thread carries out."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Order] = SimpleQueue()

    def put(self, order: Order) -> None:
        self._queue.put(order)

    def wake(self) -> None:
        """Let the engine's thread look around, without an order of its own."""
        self._queue.put(_look)

    def carry_out(self, patience: float = 0.0) -> None:
        """Carry out what has come; without any, wait up to `patience` seconds for the first."""
        try:
            order = self._queue.get(timeout=patience) if patience else self._queue.get_nowait()
            while True:
                order()
                order = self._queue.get_nowait()
        except Empty:
            return


def _look() -> None:
    pass
