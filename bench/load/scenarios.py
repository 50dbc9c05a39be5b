"""The loads that every engine is put under, and what each is for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.load.trace import Request, Tokenize, Workload, draw, read_trace, write_trace

ENOUGH = 2000


@dataclass(frozen=True)
class Scenario:
    """`workload` over the first `adapters` adapters, 0 being the base alone; without `clients` it is an open loop."""

    name: str
    workload: Workload
    adapters: int
    clients: int | None
    seconds: float

    def shorter(self, share: float) -> Scenario:
        """The same load for a `share` of the time, with as many fewer requests."""
        requests = math.ceil(self.workload.requests * share)
        return replace(self, seconds=self.seconds * share, workload=replace(self.workload, requests=requests))


PROMPTS = Workload(ENOUGH, words=(200, 200), tokens=1)
SCENARIOS = (
    Scenario("base-1", Workload(ENOUGH), 0, 1, 10),
    Scenario("base-8", Workload(ENOUGH), 0, 8, 20),
    Scenario("mixed-8", Workload(ENOUGH, "distinct"), 8, 8, 20),
    Scenario("zipf-64", Workload(ENOUGH, "zipf:1.0"), 64, 8, 20),
    Scenario("open", Workload(20, "zipf:1.0", base_share=0.1, rate=1.0), 8, None, 20),
    Scenario("prefill-base", PROMPTS, 0, 1, 5),
    Scenario("prefill-lora", PROMPTS, 8, 1, 5),
)
# few prompts and every adapter on each, so that what is kept of one request could be taken for another's
MIX = Scenario("isolation", Workload(32, "distinct", base_share=0.1, tokens=24, prompts=4), 8, 8, 3600)
RESIDENT = 16


def traces(
    scenarios: Sequence[Scenario], adapters: Sequence[str], tokenize: Tokenize, seed: int, folder: Path
) -> Mapping[str, list[Request]]:
    """The trace of each scenario: the one in `folder` where there is one, else drawn and written there."""
    folder.mkdir(parents=True, exist_ok=True)
    for scenario in scenarios:
        file = folder / f"{scenario.name}.jsonl"
        if not file.exists():
            write_trace(draw(scenario.workload, adapters[: scenario.adapters], tokenize, seed), file)
    return {scenario.name: read_trace(folder / f"{scenario.name}.jsonl") for scenario in scenarios}


def touch(adapters: Sequence[str | None], trace: Sequence[Request]) -> list[Request]:
    """A request for each of `adapters`, to make them resident; so short that it leaves next to nothing in a prefix cache."""
    return [
        replace(request, prompt=request.prompt[:4], adapter=name, tokens=2)
        for name, request in zip(adapters, trace, strict=False)
    ]
