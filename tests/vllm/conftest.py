"""The real vLLM of `make peers` on the CPU, a registry with tiny adapters, and PEFT's answers to compare with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adreg.references import parse_reference
from adreg.registry.push import plan_push
from adreg.registry.records import VersionRecord
from adreg.registry.registry import Registry
from adreg.serve.engines.process import EngineProcess, Launch
from adreg.settings import Settings
from tests.builders import build_adapter, build_checkpoint

ROOT = Path(__file__).parents[2]
VLLM = ROOT / ".venv" / "peers" / "vllm" / "bin" / "vllm"
OVERLAY = ROOT / ".venv" / "peers" / "vllm-adreg"
TOKENS, PROMPT = 16, "Once upon a time"
RANDOM: dict[str, Any] = {"initializer_range": 0.15, "head_dim": 64}
"""vLLM's attention for CPUs knows no heads narrower than 32."""


@dataclass
class World:
    """A registry with two bases on disk; `push` builds another adapter each time, unlike all others."""

    folder: Path
    tokenizer: Path
    registry: Registry = field(init=False)
    adapters: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import torch

        self.registry = Registry(Settings(self.folder / "home"))
        for seed, name in enumerate(("tiny", "other")):
            build_checkpoint(self.base(name), "llama", self.tokenizer, seed, dtype=torch.float32, **RANDOM)
            self.registry.bases.add(str(self.base(name)), name)

    def base(self, name: str = "tiny") -> Path:
        return self.folder / name

    def build(self, base: str = "tiny", **changes: Any) -> Path:
        folder = self.folder / f"adapter-{len(self.adapters)}"
        self.adapters[folder.name] = folder
        return build_adapter(self.base(base), folder, seed=len(self.adapters), **changes)

    def push(self, name: str, base: str = "tiny", alias: str | None = None, **changes: Any) -> VersionRecord:
        folder = self.build(base, **changes)
        version = self.registry.adapters.push(plan_push(folder), name, alias, self.registry.bases.get(base)).version
        self.adapters[version.digest] = folder
        return version

    def point(self, reference: str, alias: str) -> None:
        self.registry.adapters.set_alias(parse_reference(reference), alias)

    def expected(self, version: VersionRecord | None) -> list[int]:
        """PEFT's greedy tokens after `PROMPT`, in float32, without an end."""
        return peft_tokens(self.base(), self.adapters[version.digest] if version else None)


@cache
def peft_tokens(base: Path, adapter: Path | None) -> list[int]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    tokens = AutoTokenizer.from_pretrained(base)(PROMPT)["input_ids"]
    start = len(tokens)
    with torch.no_grad():
        while len(tokens) < start + TOKENS:
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return [int(token) for token in tokens[start:]]


@dataclass
class Server:
    """Something that speaks OpenAI's dialect at `url`; `key` opens it. `log` is what it said."""

    url: str
    key: str
    log: Path
    process: EngineProcess

    def post(self, path: str, key: str | None = None, **body: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx2.post(f"{self.url}{path}", json=body, headers=headers, timeout=120)

    def ask(self, model: str) -> httpx2.Response:
        greedy: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        return self.post("/v1/completions", model=model, prompt=PROMPT, **greedy)

    def tokens(self, model: str) -> list[int]:
        answer = self.ask(model)
        assert answer.status_code == 200, answer.text
        found: list[int] = answer.json()["choices"][0]["token_ids"]
        return found

    def refused(self, model: str) -> tuple[int, str]:
        answer = self.ask(model)
        return answer.status_code, answer.text

    def get(self, path: str) -> str:
        return httpx2.get(f"{self.url}{path}", headers={"Authorization": f"Bearer {self.key}"}, timeout=30).text


def environment(home: Path, **more: str) -> dict[str, str]:
    """Both sides' packages, and a vLLM that stays small."""
    paths = f"{ROOT}{os.pathsep}{OVERLAY}"
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}"}
    quiet = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, "PYTHONPATH": paths, "ADREG_HOME": str(home), **small, **quiet, **more}


@contextmanager
def running(
    command: tuple[str, ...], variables: Mapping[str, str], log: Path, ready: Callable[[], bool]
) -> Iterator[EngineProcess]:
    """Run `command` until the block ends, once it is `ready`. Raises `EngineFailed` with what it said."""
    with EngineProcess(Launch(command[0], ("nice", "-n", "10", *command), variables, log, 1500, 60)) as process:
        process.wait_ready(ready)
        yield process


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> World:
    if not (VLLM.exists() and OVERLAY.is_dir()):
        pytest.fail("the real vLLM is not here: make test-vllm installs it")
    return World(tmp_path_factory.mktemp("vllm"), tokenizer_folder)
