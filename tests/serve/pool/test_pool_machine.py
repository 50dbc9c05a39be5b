"""Random traffic on the pool: no adapter in use ever leaves its slot, no slot is lost, and everybody is served in the end."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from adreg.errors import IntegrityError
from tests.serve.pool.rack import Bench

DIGESTS = st.sampled_from(["a", "b", "c", "d", "e", "bad"])


class Traffic(RuleBasedStateMachine):
    """`running` and `waiting` are what the pool should count; `slots` is what each running adapter was told."""

    @initialize(slots=st.integers(1, 3), host_bytes=st.sampled_from([0, 15, 35, 1000]), pin=st.booleans())
    def begin(self, slots: int, host_bytes: int, pin: bool) -> None:
        self.bench = Bench(slots, host_bytes, pinned={"a"} if pin and slots > 1 else set())
        self.waiting: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.slots: dict[str, int] = {}

    @rule(digest=DIGESTS)
    def request(self, digest: str) -> None:
        self.bench.pool.request(digest)
        self.waiting[digest] += 1

    @rule(digest=DIGESTS)
    def acquire(self, digest: str) -> None:
        if not self.waiting[digest]:
            return
        try:
            slot = self.bench.pool.acquire(digest)
        except IntegrityError:
            assert digest == "bad"
            self.waiting[digest] -= 1
            return
        if slot is not None:
            self.waiting[digest] -= 1
            self.running[digest] += 1
            assert self.slots.setdefault(digest, slot) == slot

    @rule(digest=DIGESTS)
    def release(self, digest: str) -> None:
        if self.running[digest]:
            self.bench.pool.release(digest)
            self.running[digest] -= 1
            if not self.running[digest]:
                del self.slots[digest]

    @rule(digest=DIGESTS)
    def forget(self, digest: str) -> None:
        if self.waiting[digest]:
            self.bench.pool.forget(digest)
            self.waiting[digest] -= 1

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.3, 1.0, 3.0, 6.0]))
    def tick(self, seconds: float) -> None:
        self.bench.now += seconds
        self.bench.pool.tick()

    @rule()
    def finish_loads(self) -> None:
        self.bench.finish_loads()

    @invariant()
    def no_adapter_in_use_has_left_its_slot(self) -> None:
        for digest, slot in getattr(self, "slots", {}).items():
            assert self.bench.rack.held.get(slot) == digest

    def teardown(self) -> None:
        """Without any time passing: whoever runs ends, and then everybody who waits has had a turn soon."""
        if not hasattr(self, "bench"):
            return
        for digest in list(self.running.elements()):
            self.release(digest)
        for _ in range(200):
            if not +self.waiting:
                break
            self.bench.finish_loads()
            self.bench.pool.tick()
            for digest in list((+self.waiting).elements()):
                self.acquire(digest)
            for digest in list(self.running.elements()):
                self.release(digest)
        assert not +self.waiting
        self.bench.pool.tick()
        allowed = self.bench.host_bytes + 10 * len(self.bench.rack.held)
        assert self.bench.pool.held <= allowed
        self.bench.close()


Traffic.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_random_traffic = Traffic.TestCase
