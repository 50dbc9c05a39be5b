"""Whether llama.cpp gives each adapter its own answers while its prompt cache is on: as it comes, and as adreg runs it.

    python -m bench.llamacpp FOLDER [REQUESTS [LLAMA_SERVER]]

SmolLM2-135M-Instruct in bf16 with three adapters, made in FOLDER when they are not there. Prompts begin alike; four
requests run at a time, greedy. An answer counts where it is, byte for byte, the one that the same process gives alone
without its cache.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.engine import Engine, running
from bench.peers.engines import LLAMA_SERVER, llama_cpp
from bench.peers.world import NAME, World, build_world, convert, names
from bench.spine import header

TOKENS, AT_A_TIME, QUANT = 12, 4, "bf16"
JsonObject = dict[str, Any]
Pair = tuple[str | None, str]


@dataclass(frozen=True)
class Way:
    """How a process is asked: `body` for an adapter (None: the base) and a prompt."""

    url: str
    key: str
    body: Callable[[Pair], JsonObject]

    def ask(self, pair: Pair, **more: Any) -> tuple[str, int]:
        """The answer, and how many tokens of its prompt came from the cache."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        asked = urllib.request.Request(f"{self.url}/v1/completions", json.dumps(self.body(pair) | more).encode(), headers)
        with urllib.request.urlopen(asked, timeout=600) as answer:
            told = json.load(answer)
        return told["choices"][0]["text"], told["usage"]["prompt_tokens_details"]["cached_tokens"]


def main(place: Path, requests: int, program: Path | None) -> None:
    world = ready_world(place)
    print(header())
    print(f"{'way':<50} {'as alone':>9} {'cached tokens':>14} {'seconds':>8}")
    for way in ("naive", "pinned"):
        with as_it_comes(world, way) as found:
            report(f"llama.cpp as it comes, {way}", found, world, requests)
    for invariant in (False, True):
        with as_adreg_runs_it(world, program, invariant) as found:
            report(f"adreg serve --engine llama.cpp{' --batch-invariant' * invariant}", found, world, requests)


def ready_world(place: Path) -> World:
    done = place / "complete"
    if done.exists():
        return World(place, names(3))
    world = build_world(place, 3)
    convert(world, (QUANT,))
    done.touch()
    return world


def report(name: str, way: Way, world: World, requests: int) -> None:
    draw = random.Random(1)
    work = [(draw.choice((None, *world.adapters)), draw.choice(prompts())) for _ in range(requests)]
    alone = {pair: way.ask(pair, cache_prompt=False)[0] for pair in dict.fromkeys(work)}
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        answers = list(threads.map(way.ask, work))
    same = sum(text == alone[pair] for (text, _), pair in zip(answers, work, strict=True))
    cached, seconds = sum(count for _, count in answers), time.perf_counter() - began
    print(f"{name:<50} {f'{same}/{requests}':>9} {cached:>14} {seconds:>8.1f}", flush=True)


def prompts() -> list[str]:
    """Twelve, whose beginnings are two."""
    head = "You are the keeper of a lighthouse on a rocky coast. Answer politely, briefly and truthfully. "
    asked = ("What do you see at night?", "How are you today?", "Tell me about the storm.", "What is the weather like?",
             "Why is the lamp red?", "Who lives with you?")  # fmt: skip
    return [head * times + question for times in (1, 3) for question in asked]


@contextmanager
def as_it_comes(world: World, way: str) -> Iterator[Way]:
    """With llama.cpp's defaults: `naive` sends `lora` where an adapter is wanted; `pinned` says all scales and a slot too."""
    engine = llama_cpp(world, QUANT)

    def body(pair: Pair) -> JsonObject:
        chosen = None if pair[0] is None else world.adapters.index(pair[0])
        asked: JsonObject = {"prompt": pair[1], "max_tokens": TOKENS, "temperature": 0}
        if way == "naive":
            return asked | ({} if chosen is None else {"lora": [{"id": chosen, "scale": 1.0}]})
        scales = [{"id": nth, "scale": float(nth == chosen)} for nth in range(len(world.adapters))]
        return asked | {"lora": scales, "id_slot": 0 if chosen is None else chosen + 1}

    with running(Engine(engine.name, engine.dialect, engine.command, engine.environment), world.place / "llama.log") as process:
        yield Way(f"http://127.0.0.1:{process.port}", "", body)


@contextmanager
def as_adreg_runs_it(world: World, program: Path | None, invariant: bool) -> Iterator[Way]:
    from adreg.cli.llamacpp import LlamaWish, open_llamacpp
    from adreg.cli.output import Output
    from adreg.cli.serving import make_offer
    from adreg.registry.registry import Registry
    from adreg.serve.models.registered import RegisteredModels
    from adreg.settings import Settings

    registry = Registry(Settings(world.home))
    offer = make_offer(registry, registry.bases.get(NAME), (), ())
    wish = LlamaWish(program, QUANT, context=1024, invariant=invariant, verify=False)
    roster, models = open_llamacpp(registry, offer, wish, Output(quiet=True), lambda: None), RegisteredModels(offer)
    (upstream,) = roster.fleet.upstreams

    def body(pair: Pair) -> JsonObject:
        asked = {"model": pair[0] or NAME, "prompt": pair[1], "max_tokens": TOKENS, "temperature": 0}
        model = models.resolve(pair[0] or NAME)

        async def addressed() -> JsonObject:
            return upstream.dialect.address(asked, model)

        return asyncio.run(addressed())

    try:
        yield Way(upstream.url, upstream.key or "", body)
    finally:
        roster.close()


if __name__ == "__main__":
    folder, *rest = sys.argv[1:]
    default = LLAMA_SERVER if LLAMA_SERVER.exists() else None
    main(Path(folder), int(rest[0]) if rest else 300, Path(rest[1]) if len(rest) > 1 else default)
