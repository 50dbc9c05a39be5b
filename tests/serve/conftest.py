"""Two small served worlds, Llama and GPT-2, whose random models babble with variety, and what tests ask of them."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from adreg.errors import NotFoundError
from adreg.formats.adapters.adapter import Adapter, open_adapter
from adreg.serve.engine.engine import Engine
from adreg.serve.generation import Ended, Event, Failed, Generation, Logprob, Prompt, Sampling
from adreg.serve.loading import EngineSettings, load_engine
from adreg.serve.models.catalog import ServedModel
from adreg.serve.watch import Watch
from tests.builders import build_adapter, build_checkpoint

BASE_DIGEST = "b3:" + "ba5e" * 16
GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class Shelf:
    """A catalog that never changes: "base", and adapters by name."""

    names: tuple[str, ...]

    def __iter__(self) -> Iterator[ServedModel]:
        return (self.resolve(name) for name in ("base", *self.names))

    def resolve(self, name: str) -> ServedModel:
        if name != "base" and name not in self.names:
            raise NotFoundError("model", name, get_close_matches(name, self.names))
        return ServedModel(name, "base", BASE_DIGEST, None if name == "base" else digest_of(name))


@dataclass(frozen=True)
class World:
    """A base and its adapters on disk, by name."""

    base: Path
    adapters: dict[str, Path]

    def engine(self, watch: Watch | None = None, **settings: Any) -> Engine:
        """Not started; in float32 and batch-invariant, if `settings` do not say otherwise."""
        chosen = EngineSettings(**{"dtype": "float32", "executor": "general", "batch_invariant": True, **settings})
        return load_engine(self.base, Shelf(tuple(self.adapters)), self.source, chosen, watch=watch)

    def source(self, digest: str) -> tuple[str, Adapter]:
        name = next(name for name in self.adapters if digest_of(name) == digest)
        return name, open_adapter(self.adapters[name])


def digest_of(name: str) -> str:
    return "sha256:" + name.encode().hex().ljust(64, "0")


@dataclass
class Heard:
    """What one generation told its listener."""

    tokens: list[int]
    text: str
    end: Ended | Failed
    logprobs: list[Logprob | None] = field(default_factory=list)
    prompt: tuple[Logprob | None, ...] | None = None


def generate(engine: Engine, *asked: Generation) -> list[Heard]:
    """Run all of `asked` at the same time on a started engine and listen to the end."""
    queues: list[SimpleQueue[Event]] = [SimpleQueue() for _ in asked]
    for generation, queue in zip(asked, queues, strict=True):
        engine.submit(generation, queue.put)
    return [_listen(queue) for queue in queues]


def settled(engine: Engine) -> bool:
    """Whether within ten seconds nobody runs, waits or holds memory any more."""
    deadline = time.monotonic() + 10
    while (stats := engine.stats()).running + stats.waiting + stats.kv_used and time.monotonic() < deadline:
        time.sleep(0.01)
    return stats.running + stats.waiting + stats.kv_used == 0


def _listen(queue: SimpleQueue[Event]) -> Heard:
    heard = Heard([], "", Failed(TimeoutError()))
    while True:
        event = queue.get(timeout=60)
        if isinstance(event, Ended | Failed):
            heard.end = event
            return heard
        if isinstance(event, Prompt):
            heard.prompt = event.logprobs
            continue
        heard.tokens.append(event.id)
        heard.text += event.text
        heard.logprobs.append(event.logprob)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads only get into each other's way in models this small."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> World:
    """Untied, in float32, with a context long enough that nobody waits for its end."""
    import torch

    folder = tmp_path_factory.mktemp("served-llama")
    changes: dict[str, Any] = {
        "tie_word_embeddings": False,
        "initializer_range": 0.15,
        "max_position_embeddings": 1 << 15,
        "dtype": torch.float32,
    }
    base = build_checkpoint(folder / "base", "llama", tokenizer_folder, **changes)
    patterns = {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"layers.0.self_attn.v_proj": 3}}
    settings: dict[str, dict[str, Any]] = {
        "all": {},
        "ns/qv:prod": {"r": 4, "use_rslora": True, "target_modules": ["q_proj", "v_proj"], **patterns},
        "ends": {"target_modules": ["embed_tokens", "lm_head", "o_proj"]},
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers`")
        adapters = {
            name: build_adapter(base, folder / f"adapter-{seed}", seed, **changed)
            for seed, (name, changed) in enumerate(settings.items(), start=1)
        }
    return World(base, adapters)


@pytest.fixture(scope="session")
def poisoned(llama: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """`llama` with one more adapter, "inf", whose values are finite and overflow when they are used."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("poisoned") / "inf"
    shutil.copytree(llama.adapters["all"], folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: value * 1e30 for name, value in weights.items()}, folder / "adapter_model.safetensors")
    return World(llama.base, {**llama.adapters, "inf": folder})


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> World:
    folder = tmp_path_factory.mktemp("served-gpt2")
    base = build_checkpoint(folder / "base", "gpt2", tokenizer_folder, initializer_range=0.2)
    targets: dict[str, Any] = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
    return World(base, {"conv": build_adapter(base, folder / "conv", seed=4, **targets)})


@pytest.fixture(scope="session")
def engine(llama: World) -> Iterator[Engine]:
    """An engine on `llama` that runs for the whole session."""
    engine = llama.engine(max_running=4, max_waiting=20)
    engine.start()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def url(engine: Engine) -> Iterator[str]:
    """`engine` over HTTP, without a key; the server starts and stops it."""
    from adreg.serve.api.app import create_app
    from adreg.serve.server.server import running_server

    with running_server(create_app(engine)) as url:
        yield url
