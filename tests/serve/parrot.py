"""A real engine around an executor that recites: each adapter has a sentence, and its tokens follow one another.

With it tests of the API are quick, and what an answer says is known beforehand.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adreg.audit.findings import Finding, Severity
from adreg.errors import AuditRefused, FormatError, NotFoundError
from adreg.serve.api.app import create_app
from adreg.serve.api.service import Options
from adreg.serve.engine.engine import Engine, Parts
from adreg.serve.engine.memory import MemoryBudget
from adreg.serve.engine.orders import Orders
from adreg.serve.engine.pace import Pace
from adreg.serve.engine.prefix import PrefixStore
from adreg.serve.executor import Segment
from adreg.serve.generation import Limits, Sampling
from adreg.serve.models.catalog import ServedModel
from adreg.serve.pool.pool import AdapterPool
from adreg.serve.sampling.grammar import Grammars
from adreg.serve.server.server import running_server
from adreg.serve.text.tokenizer import Tokenizers
from adreg.serve.watch import Watch

BASE_DIGEST = "b3:" + "ba5e" * 16
SENTENCES = {
    "base": "The keeper lights a lamp, 王 counts ships 🙂 and nobody sleeps.",
    "demo/fox": "A quick brown fox jumps over the lazy dog.",
    "demo/owl": "An owl in oak trees says nothing, twice every night.",
}
BROKEN, FOREIGN = "demo/broken", "demo/foreign"


def digest_of(name: str) -> str:
    return "sha256:" + name.encode().hex().ljust(64, "0")


class Names:
    """The base, an adapter by its name and its alias, one that cannot be loaded; one of another base is refused."""

    def __iter__(self) -> Iterator[ServedModel]:
        yield ServedModel("base", "base", BASE_DIGEST, None)
        for name in (*SENTENCES, BROKEN):
            if name != "base":
                yield ServedModel(name, "base", BASE_DIGEST, digest_of(name), f"{name}:1", 8)
                yield ServedModel(f"{name}:prod", "base", BASE_DIGEST, digest_of(name), f"{name}:1", 8)

    def resolve(self, name: str) -> ServedModel:
        if name == FOREIGN:
            finding = Finding("B-ID-1", Severity.ERR, "was trained on another base", "", "serve it with its own base")
            raise AuditRefused("serve", name, [finding])
        found = {model.id: model for model in self}
        if name not in found:
            raise NotFoundError("model", name, [id_ for id_ in found if id_.startswith(name)][:2])
        return found[name]


@dataclass(frozen=True)
class Score:
    """Which token follows which one; whatever else came before, the first of the sentence follows."""

    tokens: tuple[int, ...]
    nbytes: int = 1

    def after(self, token: int) -> int:
        at = self.tokens.index(token) + 1 if token in self.tokens else 0
        return self.tokens[at % len(self.tokens)]


@dataclass
class Parrot:
    """`gate` holds every step back while it is not set."""

    base: Score
    scores: dict[str, Score]
    vocabulary: int
    context: int = 1 << 12
    slots: int = 4
    exact: bool = True
    bytes_per_token: int = 8
    gate: threading.Event = field(default_factory=threading.Event)
    pause: float = 0.0

    def __post_init__(self) -> None:
        self._resident: dict[int, Score] = {}
        self.gate.set()

    def memory(self, tokens: int) -> Any:
        return np.zeros(tokens, np.int64)

    def step(self, segments: Sequence[Segment]) -> Any:
        self.gate.wait()
        if self.pause:
            time.sleep(self.pause)
        rows = [row for segment in segments for row in self._rows(segment)]
        logits = np.zeros((len(rows), self.vocabulary), np.float32)
        for at, (score, token) in enumerate(rows):
            for strength in (12.0, 10.0, 8.0):
                token = score.after(token)
                logits[at, token] += strength
        return logits

    def _rows(self, segment: Segment) -> list[tuple[Score, int]]:
        segment.memory[segment.start : segment.start + len(segment.tokens)] = segment.tokens
        score = self.base if segment.slot is None else self._resident[segment.slot]
        return [(score, token) for token in segment.tokens[len(segment.tokens) - segment.outputs :]]

    def copy_out(self, memory: Any, start: int, stop: int) -> Any:
        return memory[start:stop].copy()

    def copy_in(self, memory: Any, start: int, block: Any) -> None:
        memory[start : start + len(block)] = block

    def prepare(self, name: str, adapter: Any) -> Score:
        if name == BROKEN:
            raise FormatError(Path("/srv/secret/adapter_model.safetensors"), "ends in the middle of a tensor", "F-HDR-1")
        return self.scores[name]

    def attach(self, prepared: Any) -> int:
        slot = next(slot for slot in range(self.slots) if slot not in self._resident)
        self._resident[slot] = prepared
        return slot

    def detach(self, slot: int) -> None:
        del self._resident[slot]


def parrot(
    tokenizer_folder: Path, watch: Watch | None = None, running: int = 8, waiting: int = 32, defaults: Sampling = Sampling()
) -> tuple[Engine, Parrot]:
    """An engine, not started, and its executor. The end of a text follows every sentence."""
    tokenizers = Tokenizers(tokenizer_folder)
    end = tokenizers.base.eos
    assert end is not None
    scores = {name: Score((*tokenizers.base.encode(text), end)) for name, text in SENTENCES.items()}
    executor = Parrot(scores["base"], scores, 49152)
    watch, orders = watch or Watch(), Orders()
    names = {digest_of(name): name for name in (*SENTENCES, BROKEN)}
    pool = AdapterPool(executor, lambda digest: (names[digest], None), 1 << 20, (), watch, orders.wake)  # type: ignore[arg-type,return-value]
    parts = Parts(
        executor=executor,
        catalog=Names(),
        tokenizers=tokenizers,
        grammars=Grammars(tokenizers.base.definition, executor.vocabulary, {end}),
        pool=pool,
        prefixes=PrefixStore(executor, ("parrot",), 1 << 20),
        orders=orders,
        memory=MemoryBudget(1 << 24),
        pace=Pace(0.05),
        limits=Limits(running, waiting, executor.context, executor.vocabulary),
        prompt_rows=256,
        ends=frozenset({end}),
        watch=watch,
        defaults=defaults,
    )
    return Engine(parts), executor


@contextmanager
def served(
    tokenizer_folder: Path, options: Options = Options(), grace: int = 1, **engine: Any
) -> Iterator[tuple[str, Engine, Parrot]]:
    """An engine over HTTP: its URL, itself, and its executor."""
    made, executor = parrot(tokenizer_folder, options.metrics, **engine)
    with running_server(create_app(made, options), grace=grace) as url:
        yield url, made, executor
