"""Whoever else is served: every request runs on its own adapter, and its answer is the one it gets alone."""

from __future__ import annotations

import random
import time
from queue import SimpleQueue

import pytest

from adreg.errors import BusyError
from adreg.serve.engine import Engine
from adreg.serve.sequence import Ended, Event, Failed, Generation, Sampling
from tests.serve.conftest import GREEDY, World, digest_of, generate

NO_NUMBERS = "the model computed no finite logits"
ADAPTERS = (None, "all", "ns/qv:prod", "ends")


def asked(seed: int) -> Generation:
    """Some prompt for some adapter; every third one is sampled."""
    chance = random.Random(seed)
    name = ADAPTERS[seed % 4]
    prompt = tuple(chance.randrange(3, 49152) for _ in range(chance.randrange(1, 30)))
    sampling = Sampling(0.9, 0.8, seed=seed) if seed % 3 == 0 else GREEDY
    return Generation(prompt, digest_of(name) if name else None, chance.randrange(5, 30), sampling)


def settled(engine: Engine) -> bool:
    """Whether within ten seconds nobody holds a cache any more."""
    deadline = time.monotonic() + 10
    while engine.runner.slots and time.monotonic() < deadline:
        time.sleep(0.01)
    return engine.runner.slots == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_in_a_crowd_are_bit_for_bit_the_answers_alone(llama: World, dtype: str) -> None:
    engine = llama.engine(dtype=dtype, max_running=5)
    engine.start()
    everybody = [asked(seed) for seed in range(16)]
    alone = [generate(engine, one)[0] for one in everybody]
    together = generate(engine, *everybody)
    engine.close()
    assert [heard.tokens for heard in together] == [heard.tokens for heard in alone]
    assert [heard.text for heard in together] == [heard.text for heard in alone]
    assert len({tuple(heard.tokens[:5]) for heard in alone}) == 16


def test_all_adapters_advance_in_turns(engine: Engine) -> None:
    order: SimpleQueue[tuple[int, Event]] = SimpleQueue()
    for index, name in enumerate(ADAPTERS):
        generation = Generation((5, 6, 7), digest_of(name) if name else None, 12, GREEDY)
        engine.submit(generation, lambda event, index=index: order.put((index, event)))  # type: ignore[misc]
    events = [order.get(timeout=30) for _ in range(4 * 13)]
    turns = [index for index, event in events if not isinstance(event, Ended)]
    last_start = max(turns.index(index) for index in range(4))
    first_end = min(len(turns) - 1 - turns[::-1].index(index) for index in range(4))
    assert last_start < first_end, "one of them ended before another began"


def test_an_adapter_that_overflows_ends_its_own_requests_only(poisoned: World) -> None:
    engine = poisoned.engine()
    engine.start()
    (alone,) = generate(engine, asked(1))
    lost = Generation((5, 6), digest_of("inf"), 20, GREEDY)
    heard = generate(engine, lost, asked(1), lost)
    assert [isinstance(each.end, Failed) and str(each.end.error) for each in (heard[0], heard[2])] == [NO_NUMBERS] * 2
    assert heard[1].tokens == alone.tokens
    assert settled(engine)
    engine.close()


def test_a_cancelled_sequence_gives_back_its_place_and_its_cache(llama: World) -> None:
    engine = llama.engine(max_running=1, max_waiting=1)
    engine.start()
    events: SimpleQueue[Event] = SimpleQueue()
    running = engine.submit(Generation((5,), None, 30_000, GREEDY), events.put)
    waiting = engine.submit(Generation((5,), None, 30_000, GREEDY), lambda event: None)
    with pytest.raises(BusyError) as refused:
        engine.submit(Generation((5,), None, 1, GREEDY), lambda event: None)
    assert not refused.value.stopping
    events.get(timeout=30)
    engine.cancel(waiting)
    engine.cancel(running)
    engine.cancel(running)
    assert settled(engine)
    assert [len(heard.tokens) for heard in generate(engine, asked(1), asked(2))] == [asked(1).max_tokens, asked(2).max_tokens]
    engine.close()


def test_closing_fails_what_runs_and_what_waits_and_refuses_what_comes(llama: World) -> None:
    engine = llama.engine(max_running=1)
    engine.start()
    heard: SimpleQueue[Event] = SimpleQueue()
    for _ in range(2):
        engine.submit(
            Generation((5,), None, 30_000, GREEDY), lambda event: heard.put(event) if isinstance(event, Failed) else None
        )
    engine.close()
    ends = [heard.get(timeout=30) for _ in range(2)]
    assert all(isinstance(end, Failed) and isinstance(end.error, BusyError) and end.error.stopping for end in ends)
    assert engine.runner.slots == 0
    with pytest.raises(BusyError):
        engine.submit(asked(1), heard.put)
