"""A registry with adapters of two bases, and vLLM's interface with the plugin in it, as vLLM puts it there."""

from __future__ import annotations

import asyncio
import importlib
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from adreg.registry.push import plan_push
from adreg.registry.records import VersionRecord
from adreg.registry.registry import Registry
from adreg.serve.plugin.settings import REGISTRY
from adreg.settings import Settings
from tests.registry.small import small_adapter, small_base, tensors_of
from tests.serve.plugin.standin.request import LoRARequest

PLUGIN = "adreg.serve.plugin.resolver"


@dataclass
class Shelf:
    """A registry in `home`, with the bases `tiny` and `other`; `push` makes another adapter each time."""

    home: Path
    folder: Path
    registry: Registry = field(init=False)
    pushed: int = 0

    def __post_init__(self) -> None:
        self.registry = Registry(Settings(self.home))
        for name, seed in (("tiny", 0), ("other", 1)):
            self.registry.bases.add(str(small_base(self.base(name), seed)), name)

    def base(self, name: str = "tiny") -> Path:
        return self.folder / name

    def push(self, name: str, base: str = "tiny", alias: str | None = None, rank: int = 4, **changes: Any) -> VersionRecord:
        self.pushed += 1
        folder = self.folder / f"adapter-{self.pushed}"
        small_adapter(folder, tensors=tensors_of(self.pushed, rank), r=rank, **changes)
        return self.registry.adapters.push(plan_push(folder), name, alias, self.registry.bases.get(base)).version


@dataclass
class Vllm:
    """vLLM's side of the interface: plugins are loaded from their entry points, and resolvers asked by name."""

    resolvers: ModuleType

    def load_plugins(self) -> None:
        project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
        for name, place in project["entry-points"]["vllm.general_plugins"].items():
            EntryPoint(name, place, "vllm.general_plugins").load()()

    @property
    def names(self) -> list[str]:
        return list(self.resolvers.LoRAResolverRegistry.get_supported_resolvers())

    def resolve(self, base: object, name: str) -> LoRARequest | None:
        found = self.resolvers.LoRAResolverRegistry.get_resolver("adreg").resolve_lora(str(base), name)
        answer: LoRARequest | None = asyncio.run(found)
        return answer


@pytest.fixture
def shelf(home: Path, tmp_path: Path) -> Shelf:
    return Shelf(home, tmp_path)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Vllm]:
    """Registers nothing yet; the variables of other tests and of the machine are gone."""
    caplog.set_level("INFO", "vllm.adreg")
    resolvers = importlib.import_module("tests.serve.plugin.standin.resolver")
    stand_ins = {"vllm": ModuleType("vllm"), "vllm.lora": ModuleType("vllm.lora"), "vllm.lora.resolver": resolvers}
    stand_ins["vllm.lora.request"] = importlib.import_module("tests.serve.plugin.standin.request")
    for name, module in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("BASE", "ADAPTERS", "ALLOW", "MUTABLE", "MAX_LORA_RANK"):
        monkeypatch.delenv(f"ADREG_VLLM_{name}", raising=False)
    monkeypatch.delenv(REGISTRY, raising=False)
    resolvers.LoRAResolverRegistry.resolvers.clear()
    yield Vllm(resolvers)
    sys.modules.pop(PLUGIN, None)


@pytest.fixture
def local(vllm: Vllm, monkeypatch: pytest.MonkeyPatch) -> Vllm:
    """vLLM with the plugin, on the registry of this machine."""
    monkeypatch.setenv(REGISTRY, "local")
    vllm.load_plugins()
    return vllm


def folder_of(vllm: Vllm, base: object, name: str) -> Path:
    found = vllm.resolve(base, name)
    assert found is not None
    return Path(found.lora_path)


def why(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.records[-1].getMessage()
