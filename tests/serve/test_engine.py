"""What a generation may ask of the engine, how everything ends, and that a failure ends only what it must."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adreg.errors import AdregError, BusyError, ContextTooLong, DeadlineError, FormatError
from adreg.formats.adapters.adapter import Adapter
from adreg.serve.engine.engine import Engine
from adreg.serve.executor import Segment
from adreg.serve.generation import Ended, Event, Failed, Generation, Token
from adreg.serve.loading import EngineSettings, load_engine
from adreg.serve.watch import Watch
from tests.serve.conftest import GREEDY, Shelf, World, digest_of, generate, settled

PROMPT = (5, 6, 7)
LONG = 30_000


@pytest.fixture(scope="module")
def quick(llama: World) -> Iterator[Engine]:
    """One that runs for all tests that do it no harm."""
    engine = llama.engine(max_running=4)
    engine.start()
    yield engine
    engine.close()


def only(engine: Engine, **asked: Any) -> Any:
    return generate(engine, Generation(**{"prompt": PROMPT, "adapter": None, "max_tokens": 12, "sampling": GREEDY, **asked}))[0]


@pytest.mark.parametrize(("kind", "executor"), [("llama", "native"), ("llama", "general"), ("gpt2", "general")])
def test_a_prompt_may_fill_the_whole_context_where_nothing_is_to_follow(
    kind: str, executor: str, request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue(kind)
    told = []
    for context in (None, 40):
        engine = world.engine(executor=executor, context=context)
        size = engine.limits.context if kind == "gpt2" else 40
        prompt = tuple(int(id_) for id_ in np.random.default_rng(1).integers(3, 49152, size))
        engine.start()
        told.append(only(engine, prompt=prompt[:40], max_tokens=0, logprobs=0, prompt_logprobs=True).prompt)
        end = only(engine, prompt=prompt, max_tokens=0).end
        assert (end.reason, end.prompt_tokens, end.completion_tokens) == ("length", size, 0)
        engine.close()
    assert len(told[0]) == 40 and told[0] == told[1]


def test_prompt_log_probabilities_are_those_of_the_model_however_long_the_prompt(quick: Engine, llama: World) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    prompt = tuple(int(id_) for id_ in np.random.default_rng(0).integers(3, 49152, 500))
    model = AutoModelForCausalLM.from_pretrained(llama.base, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([prompt])).logits[0].log_softmax(-1)
    heard = only(quick, prompt=prompt, max_tokens=0, logprobs=2, prompt_logprobs=True)
    assert heard.end == Ended("length", 500, 0)
    assert (heard.tokens, heard.prompt[0]) == ([], None)
    for index, told in enumerate(heard.prompt[1:]):
        assert abs(told.value - float(wanted[index, prompt[index + 1]])) < 1e-4
        assert [id_ for id_, _ in told.top] == wanted[index].topk(2).indices.tolist()
    again = only(quick, prompt=prompt, max_tokens=3, prompt_logprobs=True)
    assert [told and told.value for told in again.prompt] == [told and told.value for told in heard.prompt]
    assert again.tokens == only(quick, prompt=prompt, max_tokens=3).tokens


def test_log_probabilities_do_not_change_the_answer(quick: Engine) -> None:
    plain, told = only(quick), only(quick, logprobs=0)
    assert plain.logprobs == [None] * 12
    assert told.tokens == plain.tokens
    assert all(one.value <= 0 and not one.top for one in told.logprobs)


def test_ends_end_unless_they_are_ignored_or_too_early(quick: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    free = only(quick).tokens
    end, fourth = free[6], free[3]
    assert free.index(end) == 6
    monkeypatch.setattr(quick, "_ends", frozenset({end}))
    stopped = only(quick)
    assert (stopped.tokens, stopped.end.reason) == (free[:7], "stop")
    assert stopped.text == quick.tokenizers.base.decode(free[:6])
    assert only(quick, ignore_eos=True).tokens == free
    asked = only(quick, ignore_eos=True, stop_ids=frozenset({fourth}))
    assert (asked.tokens, asked.end.reason) == (free[:4], "stop")
    held = only(quick, min_tokens=9)
    assert held.tokens[:6] == free[:6]
    assert end not in held.tokens[:8]
    assert len(held.tokens) >= 9


def test_what_cannot_be_is_refused_at_once(quick: Engine) -> None:
    with pytest.raises(ContextTooLong):
        quick.submit(Generation(PROMPT, None, quick.limits.context), lambda event: None)
    assert settled(quick)


def test_a_deadline_ends_who_runs_and_who_waits(llama: World) -> None:
    engine = llama.engine(max_running=1)
    engine.start()
    soon = time.monotonic() + 0.3
    runs, waits = generate(
        engine, Generation(PROMPT, None, LONG, GREEDY, deadline=soon), Generation(PROMPT, None, 1, GREEDY, deadline=soon)
    )
    assert all(isinstance(heard.end, Failed) and isinstance(heard.end.error, DeadlineError) for heard in (runs, waits))
    assert runs.tokens
    assert not waits.tokens
    assert 0 <= time.monotonic() - soon < 2
    assert settled(engine)
    assert only(engine, deadline=time.monotonic() + 60).tokens
    engine.close()


def test_closing_with_grace_lets_finish_what_it_has_and_fails_what_is_left(llama: World) -> None:
    engine = llama.engine(max_running=2)
    engine.start()
    heard: list[SimpleQueue[Event]] = [SimpleQueue(), SimpleQueue()]
    engine.submit(Generation(PROMPT, None, 10, GREEDY), heard[0].put)
    engine.submit(Generation(PROMPT, None, LONG, GREEDY), heard[1].put)
    heard[1].get(timeout=30)
    closing = threading.Thread(target=engine.close, args=(3.0,))
    closing.start()
    while engine.alive:
        time.sleep(0.001)
    with pytest.raises(BusyError) as refused:
        engine.submit(Generation(PROMPT, None, 1), lambda event: None)
    assert refused.value.stopping
    closing.join()
    ends = [[event for event in _all(queue) if isinstance(event, Ended | Failed)] for queue in heard]
    assert ends[0] == [Ended("length", 3, 10)]
    assert isinstance(ends[1][0], Failed)
    assert isinstance(ends[1][0].error, BusyError)
    assert engine.stats().kv_used == 0


def test_what_was_submitted_just_before_closing_has_its_grace(llama: World) -> None:
    engine = llama.engine(max_running=1)
    heard: SimpleQueue[Event] = SimpleQueue()
    engine.start()
    engine._orders.put(lambda: time.sleep(0.2))
    for _ in range(3):
        engine.submit(Generation(PROMPT, None, 2, GREEDY), heard.put)
    engine.close(grace=30)
    assert sum(event == Ended("length", 3, 2) for event in _all(heard)) == 3


def _all(queue: SimpleQueue[Event]) -> Iterator[Event]:
    while not queue.empty():
        yield queue.get()


def test_a_step_that_fails_ends_only_the_sequence_that_makes_it_fail(llama: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = llama.engine(max_running=8)
    executor = engine._parts.executor
    whole = executor.step

    def step(segments: Sequence[Segment]) -> NDArray[np.float32]:
        if any(666 in segment.tokens for segment in segments):
            raise MemoryError("no room for 666")
        return whole(segments)

    monkeypatch.setattr(executor, "step", step)
    engine.start()
    fine = [Generation((seed, 9), digest_of("all") if seed % 2 else None, 8, GREEDY) for seed in range(10, 15)]
    alone = [generate(engine, one)[0] for one in fine]
    guilty, *rest = generate(engine, Generation((1, 666, 3), None, 8, GREEDY), *fine)
    assert isinstance(guilty.end, Failed)
    assert str(guilty.end.error) == "no room for 666"
    assert [heard.tokens for heard in rest] == [heard.tokens for heard in alone]
    assert settled(engine)
    engine.close()


def test_a_listener_that_fails_harms_nobody(quick: Engine) -> None:
    def deaf(event: Event) -> None:
        raise RuntimeError("not listening")

    alone = only(quick).tokens
    quick.submit(Generation(PROMPT, None, LONG, GREEDY), deaf)
    assert only(quick).tokens == alone
    assert settled(quick)


def test_an_engine_that_breaks_says_so_to_everyone_and_takes_no_more(llama: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = llama.engine(max_running=1)
    engine.start()
    heard: SimpleQueue[Event] = SimpleQueue()
    for _ in range(2):
        engine.submit(
            Generation(PROMPT, None, LONG, GREEDY), lambda event: heard.put(event) if isinstance(event, Failed) else None
        )
    monkeypatch.setattr(engine._parts.pool, "tick", lambda: 1 / 0)
    ends = [heard.get(timeout=30) for _ in range(2)]
    assert all(isinstance(end, Failed) and isinstance(end.error, AdregError) for end in ends)
    with pytest.raises(BusyError):
        engine.submit(Generation(PROMPT, None, 1), lambda event: None)
    assert not engine.alive
    engine.close()


def test_an_adapter_that_is_slow_or_cannot_be_loaded_is_nobody_elses_matter(llama: World) -> None:
    opened = threading.Event()

    def source(digest: str) -> tuple[str, Adapter]:
        if digest == digest_of("broken"):
            raise FormatError("broken", "is broken", "K-KEY-1")
        if digest == digest_of("all"):
            opened.wait(30)
        return llama.source(digest)

    settings = EngineSettings(executor="general", dtype="float32", batch_invariant=True)
    engine = load_engine(llama.base, Shelf(("all", "broken")), source, settings)
    engine.start()
    slow: SimpleQueue[Event] = SimpleQueue()
    engine.submit(Generation(PROMPT, digest_of("all"), 3, GREEDY), slow.put)
    broken, other, base = generate(
        engine, *(Generation(PROMPT, name and digest_of(name), 3, GREEDY) for name in ("broken", "ends", None))
    )
    assert isinstance(broken.end, Failed)
    assert isinstance(broken.end.error, FormatError)
    assert isinstance(other.end, Ended)
    assert isinstance(base.end, Ended)
    assert slow.empty()
    opened.set()
    assert isinstance(slow.get(timeout=30), Token)
    assert settled(engine)
    engine.close()


def test_the_watcher_hears_of_everything(llama: World) -> None:
    seen: Counter[str] = Counter()

    class Log(Watch):
        def queued(self, asked: Generation) -> None:
            seen["queued"] += 1

        def admitted(self, asked: Generation, waited: float, cached_tokens: int) -> None:
            seen["admitted"] += 1
            seen["cached"] += cached_tokens

        def token(self, asked: Generation, first: bool, seconds: float) -> None:
            seen["first" if first else "next"] += 1

        def ended(self, asked: Generation, outcome: str, prompt_tokens: int, completion_tokens: int) -> None:
            seen[outcome] += 1
            seen["completion"] += completion_tokens

        def stepped(self, seconds: float, prefill_tokens: int, decode_tokens: int) -> None:
            seen["prefill"] += prefill_tokens
            seen["decode"] += decode_tokens

    engine = llama.engine(watch=Log(), max_running=1)
    engine.start()
    prompt = tuple(range(40, 80))
    generate(engine, Generation(prompt, None, 5, GREEDY), Generation(prompt, None, 5, GREEDY))
    endless = engine.submit(Generation(PROMPT, None, LONG, GREEDY), lambda event: None)
    generate(engine, Generation(PROMPT, None, 1, GREEDY, deadline=time.monotonic() + 0.05))
    engine.cancel(endless)
    assert settled(engine)
    engine.close()
    long = seen["completion"] - 10
    assert seen == {
        "queued": 4, "admitted": 3, "cached": 32, "first": 3, "next": 8 + long - 1, "length": 2, "cancelled": 1, "deadline": 1,
        "completion": 10 + long, "prefill": 40 + 8 + 3, "decode": 8 + long - 1,
    }  # fmt: skip


def test_a_full_engine_says_when_to_come_back(llama: World) -> None:
    engine = llama.engine(max_running=1, max_waiting=100)
    engine.start()
    generate(engine, *(Generation(PROMPT, None, 20, GREEDY) for _ in range(4)))
    engine._parts.pace.run = 0.5
    for _ in range(101):
        engine.submit(Generation(PROMPT, None, LONG, GREEDY), lambda event: None)
    with pytest.raises(BusyError) as refused:
        engine.submit(Generation(PROMPT, None, 1), lambda event: None)
    assert refused.value.retry_after == 25
    engine.close()
