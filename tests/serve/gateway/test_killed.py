"""Two real servers behind a gateway, three processes, and one of them is killed while it answers."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
import pytest

from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.settings import Settings
from tests.builders import build_checkpoint
from tests.registry.small import small_adapter, tensors_of
from tests.serve.gateway.processes import Running, started

TEXT = "/v1/completions"
MODELS = ("base", "a", "b:prod", "c")
PROMPTS = ("Once upon", "The keeper", "A fox")
TOKENS = 80
SERVE = ("serve", "--base", "tiny", "--threads", "1", "--dtype", "float32", "--kv-memory", "64MB", "--prefix-memory", "0MB")


@dataclass(frozen=True)
class Site:
    one: Running
    other: Running
    gateway: Running
    stack: ExitStack


@dataclass(frozen=True)
class Heard:
    """What a client heard: the `text`, whether it knows that it is `whole`, an `error`, and who answered."""

    text: str
    whole: bool
    error: str | None
    upstream: str


@pytest.fixture
def site(home: Path, tmp_path: Path, tokenizer_folder: Path) -> Iterator[Site]:
    registry = Registry(Settings(home))
    base = build_checkpoint(tmp_path / "base", "llama", tokenizer_folder, initializer_range=0.15, max_position_embeddings=4096)
    record = registry.bases.add(str(base), "tiny")
    for seed, model in enumerate(MODELS[1:], start=1):
        folder = small_adapter(tmp_path / f"adapter-{seed}", tensors=tensors_of(seed, size=(64, 64)), lora_alpha=16)
        name, _, alias = model.partition(":")
        registry.adapters.push(plan_push(folder), name, alias or None, record)
    with ExitStack() as stack:
        one, other = stack.enter_context(started(*SERVE)), stack.enter_context(started(*SERVE))
        gateway = started("gateway", "--upstream", one.url, "--upstream", f"{other.url}/v1/")
        yield Site(one, other, stack.enter_context(gateway), stack)


def ask(url: str, model: str, prompt: str, stream: bool, began: Callable[[str], None] = lambda upstream: None) -> Heard:
    """`began` hears whose stream it is, as soon as something of it has come."""
    body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": stream}
    with httpx2.stream("POST", url + TEXT, json=body, timeout=60) as response:
        upstream = response.headers.get("x-adreg-upstream", "")
        if not stream or response.status_code != 200:
            told = json.loads(response.read())
            error = told["error"]["message"] if "error" in told else None
            return Heard("" if error else told["choices"][0]["text"], error is None, error, upstream)
        events = []
        for line in response.iter_lines():
            if line:
                events.append(line.removeprefix("data: "))
                began(upstream)
    return heard_of(events, upstream)


def heard_of(events: list[str], upstream: str) -> Heard:
    chunks: list[dict[str, Any]] = [json.loads(event) for event in events if event != "[DONE]"]
    error = next((chunk["error"]["message"] for chunk in chunks if "error" in chunk), None)
    text = "".join(choice["text"] for chunk in chunks if "error" not in chunk for choice in chunk["choices"])
    return Heard(text, events[-1] == "[DONE]", error, upstream)


class Load:
    """Clients that ask one thing after another until they are told to stop; `heard` is what each one heard of what."""

    def __init__(self, url: str, questions: list[tuple[str, str]]) -> None:
        self.heard: list[tuple[tuple[str, str], bool, bool, Heard]] = []
        self.streaming: Counter[str] = Counter()
        self.killed, self.done = Event(), Event()
        self._url, self._questions = url, questions

    def client(self, seed: int) -> None:
        choose = random.Random(seed)
        while not self.done.is_set():
            which, stream, before = choose.choice(self._questions), choose.random() < 0.7, not self.killed.is_set()
            found = ask(self._url, *which, stream, lambda upstream: self.streaming.update((upstream,)))
            self.heard.append((which, stream, before, found))

    def after(self) -> int:
        """Answers to what was asked after the kill."""
        return sum(not before for _, _, before, _ in self.heard)


def until(true: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_server_loses_no_answer_silently_the_other_takes_over_and_it_is_taken_back(site: Site) -> None:
    alone = {(model, prompt): ask(site.one.url, model, prompt, False).text for model in MODELS for prompt in PROMPTS}
    assert len(set(alone.values())) == len(alone)
    load = Load(site.gateway.url, list(alone))
    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(load.client, seed) for seed in range(8)]
        try:
            until(lambda: len(load.heard) >= 24)
            seen = load.streaming[site.one.name]
            until(lambda: load.streaming[site.one.name] > seen)  # one of its streams is under way
            site.one.kill()
            load.killed.set()
            until(lambda: load.after() >= 24)
        finally:
            load.done.set()
        for one in asking:
            one.result()
    broken = [found for *_, found in load.heard if found.error]
    for which, stream, before, found in load.heard:
        if found.error is None:
            assert found.whole and found.text == alone[which]
        else:
            # only a stream that had begun on the killed server may fail, and what came of it is right
            assert stream and before and not found.whole and found.upstream == site.one.name, found
            assert alone[which].startswith(found.text)
    assert {found.upstream for *_, found in load.heard} == {site.one.name, site.other.name}
    print(f"{len(load.heard)} requests, {load.after()} of them after the kill; {len(broken)} streams were told that they broke")
    assert broken
    site.stack.enter_context(started(*SERVE, port=site.one.port))
    until(lambda: ask(site.gateway.url, "base", "x", False).upstream == site.one.name)
    check_drain(site, alone)


def check_drain(site: Site, alone: dict[tuple[str, str], str]) -> None:
    """The first signal ends the gateway, after the answers that are under way."""
    began: list[str] = []
    with ThreadPoolExecutor(1) as clients:
        last = clients.submit(ask, site.gateway.url, "c", PROMPTS[0], True, began.append)
        until(lambda: bool(began))
        site.gateway.process.terminate()
        found = last.result()
    assert (found.whole, found.text) == (True, alone["c", PROMPTS[0]])
    site.gateway.process.wait(20)
