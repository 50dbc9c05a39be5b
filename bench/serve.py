"""adreg and its peers serving the same adapters to the same clients, in one run: `python -m bench.serve`.

SmolLM2-135M-Instruct in bf16 and 64 random LoRAs (r=8, all linear modules). One engine runs at a time, on all
processors; the peers that are not installed are left out (`make peers`). `bench/README.md` says how to read it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.load.figures import Figures
from bench.load.scenarios import MIX, SCENARIOS, traces
from bench.peers.engines import engines
from bench.peers.measure import Measured, measure
from bench.peers.peft import measure_peft
from bench.peers.world import World, build_world, convert, names
from bench.spine import header
from bench.wanted import wanted

ADAPTERS, QUICK = 64, 0.25
QUANTS = {"llamacpp": "bf16", "llamacpp-q4": "q4_k_m"}
USUAL = ("adreg", "vllm", *QUANTS, "peft")
NAMES = (*USUAL, "adreg-general")


def main() -> None:
    asked = arguments()
    print(header())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that engines and files go before this process does
    with TemporaryDirectory() as scratch:
        world = prepare(asked.world or Path(scratch))
        found = {}
        for one in measured(asked, world, asked.traces or Path(scratch) / "traces"):
            found[one.name] = one
            print(table(one), flush=True)
        judged = list(wanted(found, world.adapter_bytes)) if "adreg" in found else []
    print("\n".join(map(str, judged)))
    if asked.json:
        engine_figures = {name: asdict(one) for name, one in found.items()}
        told_of = [{**asdict(one), "met": one.met} for one in judged]
        asked.json.write_text(json.dumps({"machine": header().strip(), "engines": engine_figures, "wanted": told_of}, indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__)
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=f"of {', '.join(NAMES)}; all but the last by default")
    parser.add_argument("--quick", action="store_true", help="about four minutes, for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--world", type=Path, metavar="DIR", help="keep the base and the adapters in DIR for the next run")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="replay the traces of DIR; those that lack are written")
    parser.add_argument("--seed", type=int, default=0, help="of the traces")
    asked = parser.parse_args()
    asked.engines = asked.engines or USUAL
    if unknown := set(asked.engines) - set(NAMES):
        parser.error(f"no engine {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return asked


def prepare(place: Path) -> World:
    """The world in `place`, built there unless it is there already."""
    if not (place / "complete").exists():
        told("building the base and its adapters")
        convert(build_world(place, ADAPTERS), tuple(QUANTS.values()))
        (place / "complete").touch()
    return World(place, names(ADAPTERS))


def measured(asked: argparse.Namespace, world: World, folder: Path) -> Iterator[Measured]:
    """Each engine in turn, by the traces in `folder`; one that fails is told of, and the next one runs."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(world.base / "tokenizer.json"))
    *scenarios, mix = [scenario.shorter(QUICK if asked.quick else 1) for scenario in (*SCENARIOS, MIX)]
    drawn = traces([*scenarios, mix], world.adapters, lambda text: tokenizer.encode(text).ids, asked.seed, folder)
    startable = engines(world)
    for name in asked.engines:
        try:
            if name == "peft":
                yield measure_peft(world, scenarios, drawn, folder, told)
            elif name in startable:
                yield measure(startable[name], world, scenarios, drawn, told)
            else:
                told(f"{name} is not installed: make peers\n")
        except (RuntimeError, ConnectionError, ValueError) as error:
            told(f"{name} failed: {error}\n")


def table(one: Measured) -> str:
    """Every load of an engine, and what else is known of it."""
    head = f"{one.name:18}   tok/s  prompt/s  TTFT p50     p95  ITL p50    p95  goodput  fair  client"
    return "\n".join([head, *(line(*load) for load in one.loads.items()), summary(one), ""])


def line(name: str, load: Figures) -> str:
    speed = f"{load.output:8.1f}{load.prompt:10.1f}{load.ttft_p50:9.2f}s{load.ttft_p95:7.2f}s"
    pace = f"{1000 * load.itl_p50:7.0f}ms{1000 * load.itl_p95:5.0f}ms"
    return f"  {name:16}{speed}{pace}{load.goodput:9.0%}{load.fairness:6.2f}{load.client:8.1%}"


def summary(one: Measured) -> str:
    weight = f", {one.resident / 1e6:.1f} MB an adapter more" if one.resident is not None else ""
    alone = f"{one.isolation.score:.0%} answered as alone ({one.isolation.first:.0%} in the first token)"
    return f"  ready in {one.ready:.1f} s, at most {one.peak / 1e6:.0f} MB{weight}, {alone}"


def told(what: str) -> None:
    """A line on stderr that the next one replaces."""
    sys.stderr.write(f"\r\033[K{what}" if sys.stderr.isatty() else f"{what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
