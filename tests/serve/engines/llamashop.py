"""A registry with one base and adapters, all random, served on real llama.cpp behind the gateway, and what tests ask of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, OpenAI

from adreg.cli.llamacpp import LlamaWish, open_llamacpp
from adreg.cli.output import Output
from adreg.cli.serving import make_offer
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.serve.engines.llamacpp.process import Loaded
from adreg.serve.engines.llamacpp.roster import Pauses, Roster
from adreg.serve.gateway.app import create_gateway
from adreg.serve.models.permitted import PermittedModels
from adreg.serve.models.registered import RegisteredModels
from adreg.serve.server.server import running_server
from adreg.settings import Settings

RSLORA: dict[str, Any] = {"r": 4, "use_rslora": True, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2}}
ADAPTERS: dict[str, dict[str, Any]] = {"one": {}, "two": RSLORA, "three": {"r": 16}}
TOKENS = 8


@dataclass(frozen=True)
class Shop:
    """A registry with one base and adapters, all random, and where their folders are."""

    settings: Settings
    folder: Path

    @property
    def registry(self) -> Registry:
        return Registry(self.settings)

    def push(self, name: str, folder: Path, alias: str | None = None) -> str:
        registry = self.registry
        return registry.adapters.push(plan_push(folder), name, alias, registry.bases.get("tiny")).version.digest


@dataclass(frozen=True)
class Server:
    client: OpenAI
    roster: Roster

    @property
    def held(self) -> Loaded:
        assert self.roster._loaded is not None
        return self.roster._loaded

    def ask(self, model: str, prompt: Any = "Once upon a time", **more: Any) -> str:
        asked = {"max_tokens": TOKENS, "temperature": 0, **more}
        text: str = self.client.completions.create(model=model, prompt=prompt, **asked).choices[0].text
        return text

    def refused(self, model: str, **more: Any) -> APIStatusError:
        with pytest.raises(APIStatusError) as error:
            self.ask(model, **more)
        return error.value

    def soon(self, model: str) -> str:
        """The answer of a model that is being loaded."""
        until = time.monotonic() + 60
        while True:
            try:
                return self.ask(model)
            except APIStatusError as error:
                assert error.status_code == 503, error
                assert time.monotonic() < until
                assert int(error.response.headers["retry-after"]) >= 1
                time.sleep(0.2)


@contextmanager
def served(shop: Shop, *refs: str, **wish: Any) -> Iterator[Server]:
    registry = shop.registry
    offer = make_offer(registry, registry.bases.get("tiny"), refs, ())
    wanted = LlamaWish(**{"quant": "f32", "context": 512, "threads": 1, "verify": False, **wish})
    roster = open_llamacpp(registry, offer, wanted, Output(quiet=True), pytest.fail, Pauses(gather=0.1, between=0.1))
    app = create_gateway(roster.fleet, PermittedModels(RegisteredModels(offer)))
    try:
        with running_server(app) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            yield Server(client, roster)
    finally:
        roster.close()


def wait_until(holds: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)
