"""A small real executor's slots without a model, and loads that end when the test says so."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from adreg.errors import IntegrityError
from adreg.serve.pool.pool import AdapterPool


@dataclass(frozen=True)
class Brought:
    """What a load gives: nothing but its digest and a size."""

    digest: str
    nbytes: int = 10


class Rack:
    """The slots of an executor: refuses a second slot for one digest, and to take or to free what is not there."""

    vocabulary, context, exact, bytes_per_token = 1, 1, True, 1

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.held: dict[int, str] = {}

    def prepare(self, name: str, adapter: Any) -> Any:
        return Brought(name)

    def attach(self, prepared: Brought) -> int:
        assert prepared.digest not in self.held.values(), "two slots for one adapter"
        slot = next(slot for slot in range(self.slots) if slot not in self.held)
        self.held[slot] = prepared.digest
        return slot

    def detach(self, slot: int) -> None:
        del self.held[slot]


@dataclass
class Bench:
    """A pool over `slots` slots with a clock and loads in the test's hand; digests that begin with `bad` cannot be loaded."""

    slots: int
    host_bytes: int = 1000
    pinned: set[str] = field(default_factory=set)
    now: float = 0.0
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._gate, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self.rack = Rack(self.slots)
        self.pool = AdapterPool(
            self.rack,  # type: ignore[arg-type]  # it only has slots
            self._source, self.host_bytes, self.pinned, wake=self._done.release, clock=lambda: self.now,
        )  # fmt: skip

    def _source(self, digest: str) -> tuple[str, Any]:
        self._gate.acquire()
        self.loads.append(digest)
        if digest.startswith("bad"):
            raise IntegrityError(f"{digest} is damaged")
        return digest, None

    def finish_loads(self) -> None:
        """Let all loads that are under way end, and those that they make room for."""
        while under_way := self.pool.loading:
            for _ in range(under_way):
                self._gate.release()
            for _ in range(under_way):
                assert self._done.acquire(timeout=10)
            self.pool.tick()

    def serve(self, digest: str) -> int:
        """Take a slot for a new sequence, whatever has to happen first except that time passes."""
        self.pool.request(digest)
        self.finish_loads()
        self.pool.tick()
        slot = self.pool.acquire(digest)
        assert slot is not None
        assert self.rack.held[slot] == digest
        return slot

    def close(self) -> None:
        self.pool.close()
        for _ in range(self.pool.loading):
            self._gate.release()
