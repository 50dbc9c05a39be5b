"""A registry that changes while it is served, and a crowd of requests over everything that it holds at each moment."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adreg.cli.serving import make_offer, open_engine
from adreg.errors import BusyError
from adreg.references import parse_reference
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.serve.engine.engine import Engine
from adreg.serve.engine.sequence import Sequence
from adreg.serve.generation import Ended, Event, Failed, Generation, Sampling, Token
from adreg.serve.loading import EngineSettings
from adreg.serve.watch import Watch
from adreg.settings import Settings

TENANTS = ("ann", "bob")
CROWD = 48


def variant(adapter: Path, folder: Path, seed: int) -> Path:
    """A copy of `adapter` whose values have changed places; what it copies of the base is left out."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(adapter, folder)
    noise, file = np.random.default_rng(seed), folder / "adapter_model.safetensors"
    lora = {name: value for name, value in load_file(file).items() if ".lora_" in name}
    save_file(
        {name: noise.permutation(value.ravel()).reshape(value.shape) for name, value in lora.items()}, file, {"format": "pt"}
    )
    return folder


class Shop:
    """A registry with one base; `digests` is what every reference means, by our own account."""

    def __init__(self, home: Path, base: Path, patterns: list[Path]) -> None:
        self.registry, self._home, self._patterns = Registry(Settings(home)), home, patterns
        self._base = self.registry.bases.add(str(base), "tiny")
        self.versions: dict[str, list[str]] = {}
        self.digests: dict[str, str | None] = {"base": None, "tiny": None}

    def push(self, name: str) -> None:
        """A new version of `name`, which the name and `prod` mean from now on."""
        count = sum(map(len, self.versions.values()))
        folder = variant(self._patterns[count % len(self._patterns)], self._home / "out" / str(count), count)
        version = self.registry.adapters.push(plan_push(folder), name, "prod", self._base).version
        self.versions.setdefault(name, []).append(version.digest)
        number = len(self.versions[name])
        self.digests |= dict.fromkeys((name, f"{name}:{number}", f"{name}:prod"), version.digest)

    def move(self, name: str, number: int) -> None:
        """Let `prod` mean another version."""
        self.registry.adapters.set_alias(parse_reference(f"{name}:{number}"), "prod")
        self.digests[f"{name}:prod"] = self.versions[name][number - 1]

    def engine(self, watch: Watch | None = None, **settings: Any) -> Engine:
        """One that serves all of it, not started."""
        offer = make_offer(self.registry, self._base, (), ())
        checkpoint = self.registry.bases.current(self._base)
        return open_engine(
            offer, checkpoint, EngineSettings(**{"dtype": "float32", "batch_invariant": True, **settings}), watch=watch
        )


@dataclass
class Asked:
    """One request: what it asks, what it has got, and after how many tokens its client leaves."""

    generation: Generation
    leaves_after: int | None
    sequence: Sequence | None = None
    tokens: list[int] = field(default_factory=list)
    end: Ended | Failed | None = None
    over: threading.Event = field(default_factory=threading.Event)


@dataclass
class Crowd:
    """Asks `engine` for what `shop` holds, while `shop` changes."""

    shop: Shop
    engine: Engine
    chance: random.Random
    asked: list[Asked] = field(default_factory=list)
    did: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        lengths = (40, 96, 130)
        self._beginnings = [self._tokens(length) for length in lengths]

    def come(self, count: int) -> None:
        """`count` requests, and among them pushes and moved aliases; returns when all are over."""
        for _ in range(count):
            self._change()
            self._ask()
        for one in self.asked:
            assert one.over.wait(120), "a request never ended"

    def _change(self) -> None:
        draw, name = self.chance.random(), self.chance.choice(list(self.shop.versions))
        if draw < 0.03:
            self.shop.push(name)
            self.did["pushed"] += 1
        elif draw < 0.08:
            self.shop.move(name, self.chance.randint(1, len(self.shop.versions[name])))
            self.did["moved"] += 1

    def _ask(self) -> None:
        all_of_them = list(self.shop.digests)
        reference = self.chance.choice(all_of_them[:6] if self.chance.random() < 0.5 else all_of_them)
        model = self.engine.catalog.resolve(reference)
        assert model.adapter == self.shop.digests[reference], reference
        leaves = self.chance.randrange(8) if self.chance.random() < 0.12 else None
        one = Asked(self._generation(model.adapter), leaves)
        self.asked.append(one)
        self.did["left"] += leaves is not None
        one.sequence = self._submit(one)
        if leaves == 0:
            self.engine.cancel(one.sequence)
            one.over.set()

    def _submit(self, one: Asked) -> Sequence:
        while sum(not other.over.is_set() for other in self.asked[-4 * CROWD :]) > CROWD:
            time.sleep(0.002)
        while True:
            try:
                return self.engine.submit(one.generation, lambda event: self._hear(one, event))
            except BusyError:
                self.did["turned away"] += 1
                time.sleep(0.01)

    def _hear(self, one: Asked, event: Event) -> None:
        if isinstance(event, Token):
            one.tokens.append(event.id)
            if len(one.tokens) == one.leaves_after and one.sequence is not None:
                self.engine.cancel(one.sequence)
                one.over.set()
        elif isinstance(event, Ended | Failed):
            one.end = event
            one.over.set()

    def _generation(self, adapter: str | None) -> Generation:
        """Some prompt, often one that begins as others do; every third answer is drawn."""
        chance, beginning = self.chance, self.chance.choice(self._beginnings)
        prompt = beginning[: chance.choice((0, 40, 200))] + self._tokens(chance.randrange(1, 12))
        drawn = Sampling(
            0.9, chance.choice((0.8, 1.0)), chance.choice((0, 20)), presence_penalty=0.5, seed=chance.randrange(99)
        )
        sampling = drawn if chance.random() < 0.33 else Sampling(temperature=0)
        return Generation(prompt, adapter, chance.randrange(1, 14), sampling, tenant=chance.choice(TENANTS))

    def _tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self.chance.randrange(3, 49152) for _ in range(count))


class Counting(Watch):
    """Counts what shows that a run was a hard one."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def admitted(self, asked: Generation, waited: float, cached_tokens: int) -> None:
        self.counts["prefix hits"] += cached_tokens > 0

    def stepped(self, seconds: float, prefill_tokens: int, decode_tokens: int) -> None:
        self.counts["mixed steps"] += prefill_tokens > 0 and decode_tokens > 0

    def loaded(self, digest: str, seconds: float, error: Exception | None) -> None:
        self.counts["failed loads" if error else "loads"] += 1

    def evicted(self, digest: str) -> None:
        self.counts["evictions"] += 1
