"""What the pool promises, one promise at a time, on a clock that the tests turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from adreg.errors import IntegrityError, UsageError
from adreg.serve.pool.entry import State
from tests.serve.pool.rack import Bench


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*args: int, **settings: object) -> Bench:
        made.append(Bench(*args, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_an_adapter_goes_through_its_states_and_is_loaded_once(bench: Callable[..., Bench]) -> None:
    one = bench(2)
    seen = [one.pool.state("a")]
    one.pool.request("a")
    one.pool.request("a")
    seen.append(one.pool.state("a"))
    assert one.pool.acquire("a") is None
    one.finish_loads()
    seen.append(one.pool.state("a"))
    assert one.pool.acquire("a") == one.pool.acquire("a") == 0
    assert seen == [State.REGISTERED, State.LOADING, State.RESIDENT]
    assert one.loads == ["a"]


def test_the_least_recently_used_goes_and_comes_back_without_a_load(bench: Callable[..., Bench]) -> None:
    one = bench(2)
    for digest in ("a", "b"):
        one.serve(digest)
        one.now += 1
    one.pool.release("a")
    one.pool.release("b")
    one.serve("c")
    assert one.pool.state("a") is State.HOST
    assert one.pool.state("b") is State.RESIDENT
    one.pool.release("c")
    one.serve("a")
    assert one.loads == ["a", "b", "c"]


def test_what_was_just_used_stays_for_a_moment_while_others_run(bench: Callable[..., Bench]) -> None:
    one = bench(2)
    one.serve("a")
    one.serve("b")
    one.pool.release("b")
    one.pool.request("c")
    one.finish_loads()
    assert one.pool.acquire("c") is None
    one.now += 0.3
    one.pool.tick()
    assert one.pool.acquire("c") is not None
    assert one.pool.state("b") is State.HOST


def test_a_busy_adapter_drains_for_one_that_has_waited_long(bench: Callable[..., Bench]) -> None:
    one = bench(1)
    one.serve("hot")
    one.pool.request("hot")  # one that cannot run for another reason, and so has waited longest
    one.now += 0.1
    one.pool.request("cold")
    one.finish_loads()
    for _ in range(20):  # the next sequence on it always begins before the last one ends
        one.now += 0.5
        one.pool.tick()
        one.pool.request("hot")
        if one.pool.acquire("hot") is None:
            break
        one.pool.release("hot")
    one.pool.release("hot")
    one.pool.tick()
    assert one.pool.acquire("cold") == 0
    assert one.now < 4
    one.pool.release("cold")
    one.pool.tick()
    assert one.pool.acquire("hot") == 0, "nor does the hot one starve"


def test_one_that_gave_up_waiting_lets_the_busy_one_stay(bench: Callable[..., Bench]) -> None:
    one = bench(1)
    one.serve("hot")
    one.pool.request("cold")
    one.finish_loads()
    one.now += 5
    one.pool.tick()
    one.pool.request("hot")
    assert one.pool.acquire("hot") is None
    one.pool.forget("cold")
    one.pool.tick()
    assert one.pool.acquire("hot") == 0


def test_a_failure_is_told_to_all_who_wait_and_forgotten_after_a_while(bench: Callable[..., Bench]) -> None:
    one = bench(1)
    one.pool.request("bad")
    one.pool.request("bad")
    one.finish_loads()
    for _ in range(2):
        with pytest.raises(IntegrityError, match="bad is damaged"):
            one.pool.acquire("bad")
    one.now += 1
    one.pool.request("bad")
    with pytest.raises(IntegrityError):
        one.pool.acquire("bad")
    assert one.loads == ["bad"]
    one.now += 5
    one.pool.request("bad")
    one.finish_loads()
    assert one.loads == ["bad", "bad"]


def test_pinned_adapters_are_loaded_unasked_and_stay_and_pins_may_move(bench: Callable[..., Bench]) -> None:
    one = bench(2, pinned={"p"})
    one.pool.tick()
    one.finish_loads()
    assert one.pool.state("p") is State.RESIDENT
    for digest in ("a", "b", "c"):
        one.serve(digest)
        one.pool.release(digest)
    assert one.pool.state("p") is State.RESIDENT
    one.pinned ^= {"p", "q"}
    one.now += 2
    one.pool.tick()
    one.finish_loads()
    assert one.pool.state("q") is State.RESIDENT


def test_pins_that_fill_all_slots_are_refused() -> None:
    with pytest.raises(UsageError, match="fill all 2 slots"):
        Bench(2, pinned={"a", "b"})


def test_memory_is_kept_to_its_bytes_and_a_large_crowd_is_loaded_little_by_little(bench: Callable[..., Bench]) -> None:
    one = bench(1, host_bytes=25)
    crowd = [f"a{number}" for number in range(8)]
    for digest in crowd:
        one.pool.request(digest)
    served = 0
    while served < len(crowd):
        one.finish_loads()
        assert one.pool.held <= 25 + 2 * 10
        [running] = one.rack.held.values()
        assert one.pool.acquire(running) == 0
        one.pool.release(running)
        served += 1
        one.pool.tick()
    one.pool.tick()
    assert one.pool.held <= 25


def test_who_gives_up_before_the_load_begins_costs_none(bench: Callable[..., Bench]) -> None:
    one = bench(4)
    for digest in ("a", "b", "c"):
        one.pool.request(digest)
    one.pool.forget("c")
    one.finish_loads()
    assert sorted(one.loads) == ["a", "b"]
    assert one.pool.state("c") is State.REGISTERED
