"""Which upstream is asked: adapters stay where they are, and move little; nobody is overrun, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from adreg.errors import BusyError
from adreg.serve.api.errors import ApiError
from adreg.serve.gateway.admission import Admission
from adreg.serve.gateway.dialects import NamesDialect
from adreg.serve.gateway.upstream import Fleet, Upstream

ADAPTERS = [f"sha256:{number:064x}" for number in range(400)]


def upstreams(number: int) -> list[Upstream]:
    return [Upstream(f"http://10.0.0.{at}:8000", NamesDialect(), healthy=True) for at in range(number)]


def homes(fleet: Fleet) -> dict[str, str]:
    return {adapter: fleet.ranked(adapter)[0].url for adapter in ADAPTERS}


def test_adapters_are_shared_out_evenly_and_a_new_upstream_moves_only_its_share() -> None:
    fleet = Fleet(upstreams(4))
    before = homes(fleet)
    assert all(70 <= number <= 130 for number in Counter(before.values()).values())
    assert homes(Fleet(reversed(fleet.upstreams))) == before, "the order in which they are named does not count"
    fleet.add(Upstream("http://10.0.0.9:8000", NamesDialect(), healthy=True))
    moved = {adapter for adapter, url in homes(fleet).items() if url != before[adapter]}
    assert {homes(fleet)[adapter] for adapter in moved} == {"http://10.0.0.9:8000"}
    assert 50 <= len(moved) <= 115
    fleet.upstreams[4].healthy = False
    assert homes(fleet) == before


def test_an_adapter_leaves_home_only_for_one_that_is_less_busy_by_more_than_was_said() -> None:
    fleet = Fleet(upstreams(3), spill=4)
    home, second, third = fleet.ranked(ADAPTERS[0])
    home.running = 4
    assert fleet.ranked(ADAPTERS[0]) == [home, second, third]
    home.running = 5
    assert fleet.ranked(ADAPTERS[0]) == [second, third, home]
    second.running = 5
    assert fleet.ranked(ADAPTERS[0])[0] is third


def test_base_requests_go_to_the_least_busy_and_by_turns_where_all_are_alike() -> None:
    fleet = Fleet(upstreams(3))
    assert Counter(fleet.ranked(None)[0].url for _ in range(30)) == {one.url: 10 for one in fleet.upstreams}
    fleet.upstreams[0].running, fleet.upstreams[1].running = 2, 1
    assert fleet.ranked(None) == [fleet.upstreams[2], fleet.upstreams[1], fleet.upstreams[0]]


def test_what_waits_comes_in_by_turns_and_the_queue_has_an_end() -> None:
    async def scene() -> None:
        fleet = Fleet(upstreams(2))
        admission = Admission(fleet, per_upstream=1, waiting=3, seconds=5)
        running = [await admission.take(None, ()) for _ in range(2)]
        assert len({one.url for one in running}) == 2
        came: list[int] = []

        async def come(number: int) -> None:
            upstream = await admission.take(ADAPTERS[number], ())
            came.append(number)
            admission.give_back(upstream)

        waiting = [asyncio.create_task(come(number)) for number in range(3)]
        await asyncio.sleep(0.01)
        assert admission.waiting == 3
        with pytest.raises(BusyError, match="3 requests wait already"):
            await admission.take(None, ())
        waiting[1].cancel()
        admission.give_back(running[0])
        await asyncio.gather(waiting[0], waiting[2])
        assert came == [0, 2]
        admission.give_back(running[1])
        assert [one.running for one in fleet.upstreams] == [0, 0] and admission.waiting == 0

    asyncio.run(scene())


def test_who_waits_too_long_or_for_nobody_is_told_to_come_back() -> None:
    async def scene() -> None:
        fleet = Fleet(upstreams(1))
        admission = Admission(fleet, per_upstream=1, waiting=3, seconds=0.1)
        await admission.take(None, ())
        with pytest.raises(ApiError, match="no upstream had room within") as late:
            await admission.take(None, ())
        assert (late.value.status, late.value.headers) == (503, {"Retry-After": "1"})
        fleet.upstreams[0].healthy = False
        with pytest.raises(ApiError, match="no upstream takes requests now"):
            await admission.take(None, ())

    asyncio.run(scene())


def test_an_upstream_that_is_taken_out_ends_what_it_has_and_gets_nothing_new() -> None:
    async def scene() -> None:
        fleet = Fleet(upstreams(2))
        admission = Admission(fleet, per_upstream=8, waiting=0, seconds=1)
        first = await admission.take(None, ())
        leaving = asyncio.create_task(fleet.remove(first))
        await asyncio.sleep(0.1)
        assert not leaving.done()
        assert first not in [await admission.take(None, ()) for _ in range(4)]
        admission.give_back(first)
        await asyncio.wait_for(leaving, 1)

    asyncio.run(scene())
