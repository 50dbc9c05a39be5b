"""One engine through every scenario: started, warmed up, weighed, loaded, asked alone, stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.load.client import Run, Target, alone, closed_loop, open_loop
from bench.load.figures import Figures, Isolation, figures, isolation
from bench.load.scenarios import MIX, RESIDENT, Scenario, touch
from bench.load.trace import Request
from bench.peers.engine import Engine, Process, running
from bench.peers.world import World


@dataclass(frozen=True)
class Measured:
    """What one engine did; bytes of memory and seconds to get ready."""

    name: str
    loads: Mapping[str, Figures]
    ready: float
    peak: int
    resident: float | None
    isolation: Isolation


Told = Callable[[str], None]


def measure(
    engine: Engine, world: World, scenarios: Sequence[Scenario], traces: Mapping[str, Sequence[Request]], told: Told
) -> Measured:
    """Put `engine` under each of `scenarios` in turn; `told` hears which one is on."""
    with running(engine, world.place / f"{engine.name}.log") as process:
        target = Target(process.port, engine.dialect)
        resident = weigh(process, target, world, traces["base-8"])
        loads = {}
        for scenario in scenarios:
            told(f"{engine.name}: {scenario.name}")
            loads[scenario.name] = figures(load(target, scenario, traces[scenario.name]))
        told(f"{engine.name}: {MIX.name}")
        mixed = closed_loop(target, traces[MIX.name], MIX.clients or 1)
        found = isolation(mixed.replies, alone(target, dict.fromkeys(traces[MIX.name])).replies)
        return Measured(engine.name, loads, process.seconds, process.peak, resident, found)


def load(target: Target, scenario: Scenario, trace: Sequence[Request]) -> Run:
    if scenario.clients is None:
        return open_loop(target, trace)
    return closed_loop(target, trace, scenario.clients, scenario.seconds)


def weigh(process: Process, target: Target, world: World, trace: Sequence[Request]) -> float:
    """The bytes that each adapter takes up beyond the first, once all the rest is warm."""
    closed_loop(target, touch([None] * 8, trace), 8)
    closed_loop(target, touch(world.adapters[:1] * 8, trace), 8)
    before = process.memory
    others = world.adapters[1:RESIDENT]
    closed_loop(target, touch(others, trace), 4)
    return (process.memory - before) / len(others)
