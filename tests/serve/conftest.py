"""Two small served worlds, Llama and GPT-2, whose random models babble with variety, and what tests ask of them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from adreg.formats.adapters.adapter import open_adapter
from adreg.serve.api.app import create_app
from adreg.serve.catalog import ServedAdapter
from adreg.serve.engine import Engine
from adreg.serve.loading import EngineSettings, load_engine
from adreg.serve.sequence import Ended, Event, Failed, Generation, Sampling
from adreg.serve.server import running_server
from tests.builders import build_adapter, build_checkpoint

BASE_DIGEST = "b3:" + "ba5e" * 16
GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class World:
    """A base and its adapters on disk, by name."""

    base: Path
    adapters: dict[str, Path]

    def engine(self, **settings: Any) -> Engine:
        served = [ServedAdapter(name, open_adapter(path), digest_of(name)) for name, path in self.adapters.items()]
        return load_engine(self.base, "base", BASE_DIGEST, served, EngineSettings(**{"dtype": "float32", **settings}))


def digest_of(name: str) -> str:
    return "sha256:" + name.encode().hex().ljust(64, "0")


@dataclass
class Heard:
    """What one generation told its listener."""

    tokens: list[int]
    text: str
    end: Ended | Failed


def generate(engine: Engine, *asked: Generation) -> list[Heard]:
    """Run all of `asked` at the same time on a started engine and listen to the end."""
    queues: list[SimpleQueue[Event]] = [SimpleQueue() for _ in asked]
    for generation, queue in zip(asked, queues, strict=True):
        engine.submit(generation, queue.put)
    return [_listen(queue) for queue in queues]


def _listen(queue: SimpleQueue[Event]) -> Heard:
    heard = Heard([], "", Failed(TimeoutError()))
    while True:
        event = queue.get(timeout=60)
        if isinstance(event, Ended | Failed):
            heard.end = event
            return heard
        heard.tokens.append(event.id)
        heard.text += event.text


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
    with running_server(create_app(engine)) as url:
        yield url
