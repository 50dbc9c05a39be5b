"""Turns are fair, admission is in order, and the bound on running sequences holds. No torch."""

from __future__ import annotations

from adreg.serve.scheduler import Scheduler
from adreg.serve.sequence import Generation, Sequence
from adreg.serve.text import TextStream


def sequence() -> Sequence:
    return Sequence(Generation((1,), None, 10), TextStream(str, (), ()), lambda event: None)


def test_two_run_in_turns_while_the_third_waits_for_a_place() -> None:
    first, second, third = sequence(), sequence(), sequence()
    scheduler = Scheduler(max_running=2)
    for each in (first, second, third):
        scheduler.add(each)
    assert [scheduler.next() for _ in range(4)] == [first, second, first, second]
    assert scheduler.remove(first)
    assert not scheduler.remove(first)
    assert [scheduler.next() for _ in range(4)] == [third, second, third, second]
    assert len(scheduler) == 2


def test_one_that_waits_can_leave_and_an_empty_round_has_no_turn() -> None:
    first, second = sequence(), sequence()
    scheduler = Scheduler(max_running=1)
    scheduler.add(first)
    scheduler.add(second)
    assert scheduler.next() is first
    assert scheduler.remove(second)
    assert scheduler.clear() == [first]
    assert scheduler.next() is None
    assert len(scheduler) == 0
