"""Whoever else is served: every request runs on its own adapter, and its answer is the one it gets alone."""

from __future__ import annotations

import random
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from adreg.errors import BusyError
from adreg.serve.engine.engine import Engine
from adreg.serve.generation import Ended, Event, Failed, Generation, Sampling
from tests.builders import build_adapter
from tests.serve.churn import Counting, Crowd, Shop
from tests.serve.conftest import GREEDY, World, digest_of, generate, settled

NO_NUMBERS = "the model computed no finite logits"
ADAPTERS = (None, "all", "ns/qv:prod", "ends")


def asked(seed: int) -> Generation:
    """Some prompt for some adapter; every third one is sampled."""
    chance = random.Random(seed)
    name = ADAPTERS[seed % 4]
    prompt = tuple(chance.randrange(3, 49152) for _ in range(chance.randrange(1, 30)))
    sampling = Sampling(0.9, 0.8, seed=seed) if seed % 3 == 0 else GREEDY
    return Generation(prompt, digest_of(name) if name else None, chance.randrange(5, 30), sampling)


@pytest.mark.parametrize("executor", ["general", "native"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_in_a_crowd_are_bit_for_bit_the_answers_alone(llama: World, executor: str, dtype: str) -> None:
    engine = llama.engine(executor=executor, dtype=dtype, max_running=5)
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
    assert settled(engine)
    with pytest.raises(BusyError):
        engine.submit(asked(1), heard.put)


@pytest.fixture(scope="module")
def patterns(llama: World, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters of several kinds, ranks and targets."""
    folder = tmp_path_factory.mktemp("patterns")
    dora = build_adapter(llama.base, folder / "dora", seed=8, r=4, use_dora=True, target_modules=["q_proj", "down_proj"])
    wide = build_adapter(llama.base, folder / "wide", seed=9, r=24, target_modules=["k_proj", "up_proj"])
    return [*llama.adapters.values(), dora, wide]


SOME, ALL = {"native": 200, "general": 50}, 2000


@pytest.mark.parametrize(
    ("executor", "count"),
    [*SOME.items(), *(pytest.param(kind, ALL, marks=[pytest.mark.slow, pytest.mark.timeout(3000)]) for kind in SOME)],
)
def test_under_load_eviction_push_move_and_cancel_every_request_gets_its_tokens_alone(
    llama: World, patterns: list[Path], tmp_path: Path, executor: str, count: int
) -> None:
    shop, watch = Shop(tmp_path, llama.base, patterns), Counting()
    for name in range(10):
        shop.push(f"a{name}")
    how: dict[str, Any] = {"executor": executor}
    engine = shop.engine(watch, slots=4, max_running=12, max_waiting=40, prefix_bytes=1 << 20, **how)
    engine.start()
    crowd = Crowd(shop, engine, random.Random(count))
    crowd.come(count)
    assert settled(engine)
    engine.close()
    lone = shop.engine(slots=16, max_running=1, prefix_bytes=0, **how)
    lone.start()
    alone = {one.generation: generate(lone, one.generation)[0].tokens for one in crowd.asked}
    lone.close()
    equal = sum(one.tokens == alone[one.generation][: len(one.tokens)] for one in crowd.asked)
    whole = sum(isinstance(one.end, Ended) and one.tokens == alone[one.generation] for one in crowd.asked)
    print(f"{executor}: {equal} of {count} requests as alone, {whole} to their end; {dict(crowd.did)}, {dict(watch.counts)}")
    assert equal == count
    assert whole >= count - crowd.did["left"]
    assert len(shop.digests) > 3 * 10
    assert all(watch.counts[what] for what in ("prefix hits", "mixed steps", "evictions"))
