"""What a registry of a million versions costs, command by command: whole processes, their time and their peak memory.

    python -m bench.scale [VERSIONS] [--home DIR] [--checks]

DIR is kept, and used again as it is; `--checks` runs gc and fsck instead, which look at everything. Seconds are those of the
processor, user and system, and then those of the clock, which other work on the machine makes longer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.spine import header
from bench.synthetic import VERSIONS_EACH, Shape, adapter_name, base_name, fill, write_adapter

BASES = 100
REQUESTS = 200
NOT_FOUND = 3
CHECKS = [["gc", "--dry-run"], ["fsck"]]
INSIDE = """
import sys, time
from adreg.registry.perthread import PerThread
from adreg.references import Reference
from adreg.serve.models.offer import Offer
from adreg.serve.models.registered import RegisteredModels
from adreg.settings import Settings

def timed(what, work, count=1):
    began = time.process_time()
    for _ in range(count):
        work()
    print(f"  {what:46}{(time.process_time() - began) / count * 1000:9.2f} ms")

registries = PerThread(Settings.from_environment())
models = RegisteredModels(Offer(registries, registries.registry().bases.get(sys.argv[1])))
timed("a request's model becomes a digest, newest", lambda: models.resolve(sys.argv[2]), int(sys.argv[3]))
timed("a request's model becomes a digest, alias", lambda: models.resolve(sys.argv[2] + ":prod"), int(sys.argv[3]))
timed("GET /v1/models: everything of one base", lambda: list(models))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("versions", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--checks", action="store_true")
    asked = parser.parse_args()
    shape = Shape(asked.versions, BASES)
    with tempfile.TemporaryDirectory() as temporary:
        home = asked.home or Path(temporary) / "home"
        if not (home / "adreg.db").exists():
            _fill(home, shape)
        print(header())
        print(f"{shape.versions:,} versions of {shape.adapters:,} adapters on {shape.bases} bases")
        print(f"adreg.db has {(home / 'adreg.db').stat().st_size / 1e6:,.0f} MB\n")
        commands = CHECKS if asked.checks else _commands(shape, Path(temporary))
        measure(home, commands, f"{temporary}/")
        if not asked.checks:
            _inside(home, shape)


def _fill(home: Path, shape: Shape) -> None:
    """In a process of its own: a child's memory would begin as large as this one's."""
    began = time.perf_counter()
    process = multiprocessing.get_context("spawn").Process(target=fill, args=(home, shape))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the registry was not filled")
    print(f"filled in {time.perf_counter() - began:.0f} s")


def measure(home: Path, commands: Iterable[list[str]], scratch: str) -> None:
    environment = _environment(home)
    print(f"  {'':46}{'processor':>12}{'clock':>12}{'memory':>11}")
    for words in commands:
        used, code = timed([sys.executable, "-m", "adreg", *words], environment)
        shown = " ".join(word.replace(scratch, "") for word in words)
        odd = "" if code in (0, NOT_FOUND) else f"   exit code {code}"
        print(f"  {shown:46.46}{used.processor:10.2f} s{used.clock:10.2f} s{used.memory:8.0f} MB{odd}", flush=True)


def _inside(home: Path, shape: Shape) -> None:
    """What a server does again and again, in a process of its own."""
    middle = shape.adapters // 2
    words = [base_name(middle % shape.bases), adapter_name(middle), str(REQUESTS)]
    subprocess.run([sys.executable, "-c", INSIDE, *words], env=_environment(home), check=True)


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "ADREG_HOME": str(home), "COLUMNS": "160"}


def _commands(shape: Shape, scratch: Path) -> Iterator[list[str]]:
    """Reading first, then changes."""
    name, base, serial = adapter_name(shape.adapters // 2), base_name(7), time.time_ns()
    yield ["ls", "-q"]
    yield ["ls"]
    yield ["ls", "--json"]
    yield ["ls", "--base", base]
    yield ["ls", name]
    yield ["show", name]
    yield ["show", f"{name}:prod"]
    yield ["show", f"{name}x"]
    yield ["search", "voice", f"{shape.adapters // 2:06}"]
    yield ["search", "speaks"]
    yield ["log", name]
    yield ["audit", f"{name}:1"]
    yield ["alias", "set", f"{name}:{VERSIONS_EACH - 1}", "prod"]
    yield ["alias", "set", f"{name}:{VERSIONS_EACH}", "prod"]
    yield ["push", str(write_adapter(scratch / "known", serial)), name, "--base", base_name(shape.adapters // 2 % BASES)]
    yield ["push", str(write_adapter(scratch / "new", serial + 1)), f"new/voice-{serial}", "--base", base]


@dataclass(frozen=True)
class Used:
    """Seconds of the processor and of the clock, and the peak memory in MB."""

    processor: float
    clock: float
    memory: float


def timed(command: list[str], environment: dict[str, str]) -> tuple[Used, int]:
    """What a process took, and its exit code."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    took = Used(used.ru_utime + used.ru_stime, time.perf_counter() - began, used.ru_maxrss / 1000)
    return took, process.returncode


if __name__ == "__main__":
    main()
