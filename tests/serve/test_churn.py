"""Random operations against what must hold: every answer is the one alone, and nothing is ever left behind."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

import pytest

from adreg.errors import BusyError, DeadlineError
from adreg.serve.engine.engine import Engine
from adreg.serve.engine.sequence import Sequence
from adreg.serve.executor import BLOCK
from adreg.serve.generation import Ended, Event, Failed, Generation, Sampling, Token
from tests.serve.conftest import GREEDY, Heard, World, digest_of, generate, settled

STEM = tuple(range(500, 500 + 2 * BLOCK))


@dataclass(eq=False)
class Ask:
    """One request of the churn and what it has heard."""

    kind: int
    cancelled: bool = False
    sequence: Sequence | None = None
    events: list[Event] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return [event.id for event in self.events if isinstance(event, Token)]

    @property
    def end(self) -> Event | None:
        return self.events[-1] if self.events and isinstance(self.events[-1], Ended | Failed) else None


def kinds(chance: random.Random) -> list[Generation]:
    """Base and adapters, greedy and seeded, of two tenants, many with a beginning in common."""
    made = []
    for number in range(36):
        name = (None, "all", "ns/qv:prod", "ends")[number % 4]
        own = tuple(chance.randrange(3, 49152) for _ in range(chance.randrange(1, 40)))
        prompt = STEM[: chance.choice([0, BLOCK, 2 * BLOCK])] + own
        sampling = Sampling(0.9, 0.8, seed=number) if number % 3 == 0 else GREEDY
        made.append(Generation(prompt, name and digest_of(name), chance.randrange(1, 12), sampling, tenant="ab"[number % 2]))
    return made


def alone(world: World, everything: list[Generation], **settings: Any) -> list[Heard]:
    engine = world.engine(prefix_bytes=0, **settings)
    engine.start()
    heard = [generate(engine, one)[0] for one in everything]
    engine.close()
    return heard


def churn(engine: Engine, chance: random.Random, everything: list[Generation], operations: int) -> list[Ask]:
    """Submit, cancel, set deadlines and pause at random."""
    asks: list[Ask] = []
    for _ in range(operations):
        kind, ask = chance.randrange(len(everything)), chance.random()
        if ask < 0.62:
            new = Ask(kind)
            late = time.monotonic() + chance.choice([0.0, 0.01, 0.1]) if chance.random() < 0.1 else None
            try:
                asked = everything[kind]
                new.sequence = engine.submit(Generation(**{**vars(asked), "deadline": late}), new.events.append)
                asks.append(new)
            except BusyError as busy:
                assert not busy.stopping
                while engine.stats().waiting > engine.limits.waiting // 2:
                    time.sleep(0.001)
        elif ask < 0.8 and asks:
            gone = chance.choice(asks[-30:])
            gone.cancelled = True
            assert gone.sequence is not None
            engine.cancel(gone.sequence)
        else:
            time.sleep(chance.random() * 0.01)
        stats = engine.stats()
        assert stats.kv_used <= stats.kv_total
        assert stats.prefix_used <= stats.prefix_total + 2 * BLOCK * 1024
        assert stats.running <= engine.limits.running
    return asks


@pytest.mark.parametrize(("executor", "operations"), [("native", 2000), ("general", 300)])
def test_random_operations_leave_nothing_behind_and_no_answer_is_anothers(llama: World, executor: str, operations: int) -> None:
    chance = random.Random(1)
    everything = kinds(chance)
    wanted = alone(llama, everything, executor=executor)
    tight: dict[str, Any] = {"slots": 2, "max_running": 5, "max_waiting": 12, "kv_bytes": 400 << 10, "prefix_bytes": 100 << 10}
    engine = llama.engine(executor=executor, **tight)
    memories: weakref.WeakSet[Any] = weakref.WeakSet()
    give = engine._parts.executor.memory

    def memory(tokens: int) -> Any:
        made = give(tokens)
        memories.add(made)
        return made

    engine._parts.executor.memory = memory  # type: ignore[method-assign]
    engine.start()
    asks = churn(engine, chance, everything, operations)
    assert settled(engine)
    last = [Ask(number) for number in range(8)]
    for one in last:
        engine.submit(everything[one.kind], one.events.append)
    threading.Thread(target=engine.close, args=(60.0,)).start()
    while any(one.end is None for one in last):
        time.sleep(0.01)

    outcomes = {"stop": 0, "length": 0, "deadline": 0, "cancelled": 0}
    for one in (*asks, *last):
        heard = wanted[one.kind]
        assert one.tokens == heard.tokens[: len(one.tokens)], "not its own answer"
        match one.end:
            case Ended(reason=reason):
                assert one.tokens == heard.tokens
                outcomes[reason] += 1
            case Failed(error=error):
                assert isinstance(error, DeadlineError)
                outcomes["deadline"] += 1
            case _:
                assert one.cancelled, "it was forgotten"
                outcomes["cancelled"] += 1
    assert outcomes["length"] > operations / 10, outcomes
    assert min(outcomes["deadline"], outcomes["cancelled"]) > 0, outcomes
    assert_nothing_is_left(engine)
    asks.clear()
    gc.collect()
    assert len(memories) == 0


def assert_nothing_is_left(engine: Engine) -> None:
    parts, stats = engine._parts, engine.stats()
    assert (stats.running, stats.waiting, stats.kv_used) == (0, 0, 0)
    assert engine._places._value == engine.limits.running + engine.limits.waiting
    assert not engine._worker._timed
    assert all(entry.references == entry.waiting == 0 for entry in parts.pool._entries.values())
    assert stats.slots_used <= stats.slots_total == 2
    assert stats.prefix_used == sum(block.values.nbytes for block in parts.prefixes._blocks.values()) <= stats.prefix_total
    assert stats.prefix_hit_tokens > 0
