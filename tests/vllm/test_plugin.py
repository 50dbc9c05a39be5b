"""The plugin in somebody's own vLLM, on a registry behind HTTP: adapters by immutable references, on their very base."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from adreg.registry.records import VersionRecord
from adreg.registry.registry import Registry
from adreg.serve.engines.process import answers, free_port
from adreg.settings import Settings
from tests.registry.http_tools import served as served_registry
from tests.vllm.conftest import VLLM, Server, World, environment, running

pytestmark = pytest.mark.timeout(1800)
SMALL = (
    "--served-model-name", "tiny", "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "256", "--enable-lora",
    "--max-loras", "2", "--max-cpu-loras", "4", "--max-lora-rank", "16",
)  # fmt: skip


@dataclass
class Alone:
    """vLLM without adreg's gateway, and the registry that its plugin asks."""

    server: Server
    world: World
    versions: dict[str, VersionRecord]
    cache: Registry

    @property
    def said(self) -> str:
        return self.server.log.read_text(errors="replace")


@pytest.fixture(scope="module")
def alone(world: World) -> Iterator[Alone]:
    names = {"voice": "tiny", "tone": "tiny", "stranger": "other"}
    versions = {name: world.push(name, base, "prod") for name, base in names.items()}
    _, secret = world.registry.tokens.create("read", "*", "vllm", None)
    port, cache, log = free_port(), world.folder / "cache", world.folder / "vllm.log"
    with served_registry(world.folder / "home") as url:
        told = {"ADREG_VLLM_REGISTRY": url, "ADREG_TOKEN": secret, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_API_KEY": "k"}
        command = (str(VLLM), "serve", str(world.base()), "--port", str(port), *SMALL)
        address = f"http://127.0.0.1:{port}"
        with running(command, environment(cache, **told), log, lambda: answers(address)) as process:
            yield Alone(Server(address, "k", log, process), world, versions, Registry(Settings(cache)))


def test_a_remote_registry_s_adapters_answer_with_peft_s_tokens(alone: Alone) -> None:
    assert alone.server.tokens("tiny") == alone.world.expected(None)
    for name in ("voice", "tone"):
        version = alone.versions[name]
        for reference in (f"{name}@{version.digest}", f"{name}:1"):
            assert alone.server.tokens(reference) == alone.world.expected(version)
    assert sorted(one.reference for one in alone.cache.adapters.all()) == ["tone:1", "voice:1"]


def test_what_is_pushed_to_the_registry_is_there_while_vllm_runs(alone: Alone) -> None:
    assert alone.server.refused("late:1")[0] == 404
    late = alone.world.push("late")
    assert alone.server.tokens("late:1") == alone.world.expected(late)


def test_names_that_move_and_adapters_of_another_base_are_nobody_s(alone: Alone) -> None:
    for name, why in (
        ("voice:prod", "may mean another version tomorrow"),
        ("stranger:1", "another base"),
        ("../voice", "no ref"),
    ):
        assert alone.server.refused(name)[0] == 404
        assert why in alone.said
    assert {one.adapter for one in alone.cache.adapters.all()} <= {"tone", "voice", "late"}


LAST_SLOT = "vllm#48421: on a CPU the base's rows get the last slot's adapter (0.32)"


@pytest.mark.xfail(raises=AssertionError, strict=True, reason=LAST_SLOT)
def test_the_base_among_adapters_answers_as_alone(alone: Alone) -> None:
    names = ["tiny", "voice:1", "tone:1"]
    wanted = {name: alone.server.tokens(name) for name in names}
    asked = names * 9
    with ThreadPoolExecutor(9) as clients:
        found = list(clients.map(alone.server.tokens, asked))
    assert [name for name, tokens in zip(asked, found, strict=True) if tokens != wanted[name]] == []
