"""PEFT through those scenarios that static batches can be put under; the work is `peft_batches`', in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.load.client import Reply, Run
from bench.load.figures import figures, isolation
from bench.load.scenarios import MIX, Scenario
from bench.load.trace import Request
from bench.peers.engine import Process, clean, stop
from bench.peers.measure import Measured, Told
from bench.peers.world import World

NAME, POSSIBLE, BATCH = "PEFT batch", ("base-1", "base-8", "mixed-8"), 8
ROOT = Path(__file__).parents[2]


def measure_peft(
    world: World, scenarios: Sequence[Scenario], traces: Mapping[str, Sequence[Request]], folder: Path, told: Told
) -> Measured:
    """The batches have as many rows as the scenario has clients. `folder` holds the `traces`."""
    began = time.perf_counter()
    with batches(world) as process:
        weighed = Process(process, port=0)
        _answer(process)
        ready = time.perf_counter() - began

        def replay(name: str, batch: int, seconds: float) -> Run:
            told(f"{NAME}: {name}")
            job = {"trace": str(folder / f"{name}.jsonl"), "batch": batch, "seconds": seconds}
            return run(traces[name], _answer(process, job))

        loads = {
            scenario.name: figures(replay(scenario.name, scenario.clients or BATCH, scenario.seconds))
            for scenario in scenarios
            if scenario.name in POSSIBLE
        }
        mixed, single = replay(MIX.name, BATCH, MIX.seconds), replay(MIX.name, 1, MIX.seconds)
        return Measured(NAME, loads, ready, weighed.peak, None, isolation(mixed.replies, single.replies))


def run(trace: Sequence[Request], told: Sequence[Mapping[str, Any]]) -> Run:
    """What was told of the first requests of `trace`."""
    replies = tuple(
        Reply(request, reply["sent"], tuple(reply["seen"]), tuple(reply["pieces"]))
        for request, reply in zip(trace, told, strict=False)
    )
    return Run(replies, max(reply.seen[-1] for reply in replies), client=0.0)


@contextmanager
def batches(world: World) -> Iterator[subprocess.Popen[bytes]]:
    """`peft_batches` with as many adapters as it is asked for."""
    adapters = [str(world.adapter(name)) for name in world.adapters[: MIX.adapters]]
    command = [sys.executable, "-m", "bench.peers.peft_batches", str(world.base), *adapters]
    with (world.place / "peft.log").open("wb") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=clean(), cwd=ROOT, start_new_session=True
        )
        try:
            yield process
        finally:
            stop(process)


def _answer(process: subprocess.Popen[bytes], job: Mapping[str, Any] | None = None) -> Any:
    """What the process says next, after `job` where there is one. Raises `RuntimeError` when it has ended instead."""
    assert process.stdin and process.stdout
    if job is not None:
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("PEFT's process ended: its log is peft.log")
    return json.loads(line)
