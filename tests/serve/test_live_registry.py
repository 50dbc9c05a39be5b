"""A server over a registry that changes under it: whatever happens to one adapter, the others go on and nobody is mistaken."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import APIStatusError, APITimeoutError, OpenAI

from adreg.cli.serving import make_offer, open_engine
from adreg.references import parse_reference
from adreg.registry.push import plan_push
from adreg.registry.records import VersionRecord
from adreg.registry.registry import Registry
from adreg.serve.api.app import create_app
from adreg.serve.engine.engine import Engine
from adreg.serve.loading import EngineSettings
from adreg.serve.server.server import running_server
from adreg.settings import Settings
from tests.builders import build_checkpoint
from tests.registry.small import small_adapter, small_base, tensors_of


@dataclass
class Live:
    """A registry, and a server over all of it that has two slots."""

    registry: Registry
    folder: Path
    engine: Engine | None = None
    client: OpenAI | None = None
    pushed: int = 0

    def push(self, name: str, alias: str | None = None, base: str = "tiny") -> VersionRecord:
        self.pushed += 1
        size = (64, 64) if base == "tiny" else (24, 16)
        folder = self.folder / f"adapter-{self.pushed}"
        small_adapter(folder, tensors=tensors_of(self.pushed, size=size), lora_alpha=16)
        return self.registry.adapters.push(plan_push(folder), name, alias, self.registry.bases.get(base)).version

    def ask(self, model: str) -> str:
        assert self.client is not None
        return self.client.completions.create(model=model, prompt="Once", max_tokens=12, temperature=0).choices[0].text

    def refused(self, model: str) -> tuple[int, str]:
        with pytest.raises(APIStatusError) as error:
            self.ask(model)
        return error.value.status_code, str(error.value)

    def blob(self, version: VersionRecord, name: str = "adapter_model.safetensors") -> Path:
        return self.registry.blobs.path(version.files[name])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("live-base") / "base"
    return build_checkpoint(folder, "llama", tokenizer_folder, initializer_range=0.15, max_position_embeddings=4096)


@pytest.fixture
def live(home: Path, tmp_path: Path, base: Path) -> Iterator[Live]:
    registry = Registry(Settings(home))
    record = registry.bases.add(str(base), "tiny")
    registry.bases.add(str(small_base(tmp_path / "other")), "other")
    found = Live(registry, tmp_path)
    settings = EngineSettings(slots=2, dtype="float32", kv_bytes=1 << 26, prefix_bytes=1 << 22, threads=1)
    found.engine = open_engine(make_offer(registry, record, (), ()), registry.bases.current(record), settings)
    with running_server(create_app(found.engine)) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        found.client = client
        yield found


def test_a_push_and_a_moved_alias_are_served_from_the_next_request_on(live: Live) -> None:
    alone = live.ask("base")
    live.push("sql", "prod")
    first = live.ask("sql:prod")
    assert live.client is not None
    stream = live.client.completions.create(model="sql:prod", prompt="Once", max_tokens=1500, temperature=0, stream=True)
    began = next(stream).choices[0].text
    live.push("sql", "prod")
    second = live.ask("sql:prod")
    assert len({alone, first, second}) == 3
    assert (began + "".join(chunk.choices[0].text for chunk in stream)).startswith(first)
    assert live.ask("sql:1") == first
    assert live.ask("sql") == live.ask("sql:2") == second
    live.registry.adapters.set_alias(parse_reference("sql:1"), "prod")
    assert live.ask("sql:prod") == first


def test_more_adapters_than_slots_take_turns_and_answer_as_before(live: Live) -> None:
    names = [live.push(f"a{number}").adapter for number in range(5)]
    answers = {name: live.ask(name) for name in names}
    assert len(set(answers.values())) == 5
    assert {name: live.ask(name) for name in reversed(names)} == answers
    assert live.engine is not None
    assert live.engine.stats().slots_used == 2


def test_an_adapter_of_another_base_is_a_409_with_the_audits_reason(live: Live) -> None:
    live.push("alien", base="other")
    status, said = live.refused("alien")
    assert status == 409
    assert "cannot serve alien:1: B-ID-1" in said


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def tamper(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")


@pytest.mark.parametrize("damage", [tamper, Path.unlink, replace_by_folder])
def test_an_adapter_that_cannot_be_read_is_a_422_and_the_others_go_on(live: Live, damage: Callable[[Path], None]) -> None:
    live.push("fine")
    answer = live.ask("fine")
    broken = live.push("broken")
    damage(live.blob(broken))
    for _ in range(2):
        status, said = live.refused("broken")
        assert status == 422
        assert "cannot be loaded" in said and str(live.registry.settings.home) not in said
        assert live.ask("fine") == answer


def test_an_adapter_that_is_removed_while_it_answers_finishes_and_is_unknown_afterwards(live: Live) -> None:
    version = live.push("sql", "prod")
    first = live.ask("sql")
    assert live.client is not None
    stream = live.client.completions.create(model="sql", prompt="Once", max_tokens=1500, temperature=0, stream=True)
    began = next(stream).choices[0].text
    live.registry.adapters.remove("sql")
    for name in version.files:
        live.blob(version, name).unlink()
    assert live.refused("sql")[0] == 404
    rest = list(stream)
    assert rest[-1].choices[0].finish_reason in ("length", "stop")
    assert (began + "".join(chunk.choices[0].text for chunk in rest)).startswith(first)


def test_a_load_that_hangs_holds_up_nobody_else(live: Live) -> None:
    live.push("warm")
    cold = live.push("cold")
    answer, stuck = live.ask("warm"), live.blob(live.push("stuck"))
    stuck.unlink()
    os.mkfifo(stuck)  # whoever reads it waits for a writer
    assert live.client is not None
    with pytest.raises(APITimeoutError):
        live.client.with_options(timeout=1).completions.create(model="stuck", prompt="Once", max_tokens=1)
    assert live.ask("warm") == answer
    assert live.ask(cold.reference) not in (answer, live.ask("base"))
    os.close(os.open(stuck, os.O_WRONLY | os.O_NONBLOCK))
