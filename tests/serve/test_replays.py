"""Bugs that other engines had in public, replayed here; each test is named after the issue that reported it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx2
import numpy as np
import pytest

from adreg.errors import FormatError
from adreg.serve.api.app import create_app
from adreg.serve.engine.engine import Engine
from adreg.serve.generation import Ended, Event, Failed, Generation, Token
from adreg.serve.server.server import running_server
from tests.builders import build_checkpoint
from tests.serve.churn import Counting, Shop
from tests.serve.conftest import GREEDY, Heard, World, digest_of, generate, settled

LONG = tuple(range(1000, 1100))
"""A prompt of three whole blocks of the prefix cache, and a rest."""
TEXT = "/v1/completions"
Lone = Callable[[Generation], list[int]]


@pytest.fixture(scope="module")
def shop(llama: World, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Sixteen adapters, a0 to a15."""
    shop = Shop(tmp_path_factory.mktemp("shop"), llama.base, list(llama.adapters.values()))
    for index in range(16):
        shop.push(f"a{index}")
    return shop


@pytest.fixture(scope="module")
def alone(shop: Shop) -> Iterator[Lone]:
    """The tokens of a request that nobody else disturbs: an engine without prefix cache, one request at a time."""
    engine = shop.engine(max_running=1, prefix_bytes=0)
    engine.start()
    yield lambda asked: generate(engine, asked)[0].tokens
    engine.close()


@pytest.fixture
def started(shop: Shop) -> Iterator[Callable[..., Engine]]:
    """Starts engines on `shop`, and ends them."""
    engines: list[Engine] = []

    def start(**settings: Any) -> Engine:
        engines.append(shop.engine(**settings))
        engines[-1].start()
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def http(shop: Shop) -> Iterator[httpx2.Client]:
    with running_server(create_app(shop.engine())) as url, httpx2.Client(base_url=url, timeout=60) as client:
        yield client


def asking(shop: Shop, name: str, tokens: int = 8, prompt: tuple[int, ...] = LONG, tenant: str = "") -> Generation:
    return Generation(prompt, shop.digests[name], tokens, GREEDY, ignore_eos=True, tenant=tenant)


def cached(heard: Heard) -> int:
    assert isinstance(heard.end, Ended), heard.end
    return heard.end.cached_tokens


def one(engine: Engine, asked: Generation) -> Heard:
    return generate(engine, asked)[0]


def test_vllm_47724_a_slot_is_not_given_away_under_a_running_request(
    shop: Shop, alone: Lone, started: Callable[..., Engine]
) -> None:
    engine = started(slots=2)
    running: SimpleQueue[Event] = SimpleQueue()
    long = asking(shop, "a0", 300)
    engine.submit(long, running.put)
    others = [asking(shop, f"a{index}", 3) for index in range(1, 12)]
    assert [heard.tokens for heard in generate(engine, *others)] == [alone(other) for other in others]
    tokens = []
    while isinstance(event := running.get(timeout=60), Token):
        tokens.append(event.id)
    assert isinstance(event, Ended)
    assert tokens == alone(long)


@pytest.mark.parametrize("executor", ["native", "general"])
def test_vllm_48421_and_49656_base_rows_beside_the_last_slot_stay_base_rows(
    shop: Shop, started: Callable[..., Engine], executor: str
) -> None:
    engine = started(slots=2, executor=executor, prefix_bytes=0)
    base = replace(asking(shop, "base", 12), logprobs=3)
    (alone,) = generate(engine, base)
    generate(engine, asking(shop, "a0"), asking(shop, "a1"))  # both slots are taken, the last one too
    first, _, second, _ = generate(engine, base, asking(shop, "a0", 12), base, asking(shop, "a1", 12))
    assert first.tokens == second.tokens == alone.tokens
    assert first.logprobs == second.logprobs == alone.logprobs


def test_vllm_42125_a_name_with_new_weights_never_gets_the_old_ones_prefix(
    shop: Shop, alone: Lone, started: Callable[..., Engine]
) -> None:
    engine = started()
    shop.push("reloaded")
    before = asking(shop, "reloaded")
    assert [cached(one(engine, before)) for _ in range(2)] == [0, 96]
    shop.push("reloaded")
    after = asking(shop, "reloaded")
    heard = one(engine, after)
    assert cached(heard) == 0
    assert heard.tokens == alone(after) != alone(before)
    old = one(engine, asking(shop, "reloaded:1"))
    assert (old.tokens, cached(old)) == (alone(before), 96)


def test_vllm_30931_a_prefix_survives_that_its_adapter_comes_back_in_another_slot(
    shop: Shop, alone: Lone, started: Callable[..., Engine]
) -> None:
    engine = started(slots=2)
    for name in ("a0", "a1", "a2", "a3", "a1", "a0", "a2", "a0"):
        assert one(engine, asking(shop, name)).tokens == alone(asking(shop, name)), name
    assert cached(one(engine, asking(shop, "a3"))) == 96


def test_llama_cpp_26207_the_same_prompt_shares_nothing_between_adapters(
    shop: Shop, alone: Lone, started: Callable[..., Engine]
) -> None:
    engine = started()
    names = ("base", "a0", "a1")
    for hits in (0, 96):
        heard = [one(engine, asking(shop, name)) for name in names]
        assert [cached(each) for each in heard] == [hits] * 3
        assert [each.tokens for each in heard] == [alone(asking(shop, name)) for name in names]
    assert len({tuple(each.tokens) for each in heard}) == 3


def test_sglang_24638_no_salt_that_a_tenant_invents_leads_into_anothers_prefixes(
    shop: Shop, started: Callable[..., Engine]
) -> None:
    engine = started()
    digest = shop.digests["a0"] or ""
    cached_before = [("a0", ""), ("a0", "x"), ("base", "x")]
    crafted = [("base", digest), ("base", "x" + digest), ("base", f"x\0{digest}"), ("a0", "x\0"), ("base", ""), ("a1", "x")]
    for name, tenant in [*cached_before, *crafted]:
        assert cached(one(engine, asking(shop, name, tenant=tenant))) == 0, (name, tenant)


def test_tenants_neither_see_nor_time_each_others_prefixes(shop: Shop, started: Callable[..., Engine]) -> None:
    engine = started()
    sizes = []
    for tenant in ("ann", "bob", "eve"):
        assert cached(one(engine, asking(shop, "a0", tenant=tenant))) == 0
        assert settled(engine)
        sizes.append(engine.stats().prefix_used)
    assert sizes == [sizes[0], 2 * sizes[0], 3 * sizes[0]], "a block was shared"
    assert cached(one(engine, asking(shop, "a0", tenant="ann"))) == 96


def body(model: str, **changes: Any) -> dict[str, Any]:
    return {"model": model, "prompt": list(LONG), "max_tokens": 6, "temperature": 0, **changes}


def test_djl_serving_2954_a_stream_runs_on_the_adapter_that_it_names(http: httpx2.Client, shop: Shop) -> None:
    texts = []
    for name in ("a0", "a1", "base"):
        whole = http.post(TEXT, json=body(name))
        stream = http.post(TEXT, json=body(name, stream=True))
        events = [event.removeprefix(b"data: ") for event in stream.content.split(b"\n\n")][:-2]
        choices = [choice for event in events for choice in json.loads(event)["choices"]]
        assert "".join(choice["text"] for choice in choices) == whole.json()["choices"][0]["text"]
        assert stream.headers["x-adreg-adapter"] == whole.headers["x-adreg-adapter"] == (shop.digests[name] or "none")
        texts.append(whole.json()["choices"][0]["text"])
    assert len(set(texts)) == 3


@pytest.mark.parametrize("name", ["a99", "A0", "a0:99", "a0:dev", "a0@sha256:000000000000", "gpt-4", "bas", "", "tiny:a0"])
def test_peft_2090_and_production_stack_331_an_unknown_name_is_never_another_model(http: httpx2.Client, name: str) -> None:
    refused = http.post(TEXT, json=body(name))
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert "choices" not in refused.text


@pytest.mark.parametrize(
    "name",
    ["../a0", "../../etc/passwd", "/etc/passwd", "a0/../a1", "a0/..", "file:///etc", "a0\0", "~/x", "a0/./", "..", "a\\b"],
)
def test_vllm_46287_and_lorax_798_names_lead_nowhere_on_the_disk(http: httpx2.Client, name: str) -> None:
    assert http.post(TEXT, json=body(name)).status_code == 404


def test_sglang_bare_names_every_listed_id_is_answered_by_its_own_adapter(http: httpx2.Client) -> None:
    listed = http.get("/v1/models").json()["data"]
    assert len(listed) > 3 * 16
    for model in listed[:40]:
        answer = http.post(TEXT, json=body(model["id"], max_tokens=1))
        wanted = model["root"] if model["parent"] else "none"
        assert (answer.headers["x-adreg-adapter"], answer.json()["model"]) == (wanted, model["id"])


def test_llama_cpp_unknown_adapter_ids_are_refused_not_ignored(http: httpx2.Client) -> None:
    refused = http.post(TEXT, json=body("base", lora=[{"id": 99, "scale": 1.0}]))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lora")


def test_vllm_12106_an_adapter_of_another_base_is_a_409_with_the_reason(
    llama: World, tokenizer_folder: Path, tmp_path: Path
) -> None:
    from adreg.registry.push import plan_push

    shop = Shop(tmp_path / "home", llama.base, list(llama.adapters.values()))
    other = shop.registry.bases.add(str(build_checkpoint(tmp_path / "other", "llama", tokenizer_folder, seed=9)), "other")
    shop.registry.adapters.push(plan_push(llama.adapters["all"]), "stranger", None, other)
    with running_server(create_app(shop.engine())) as url:
        refused = httpx2.post(url + TEXT, json=body("stranger"))
        assert refused.status_code == 409
        assert "B-ID-1" in refused.json()["error"]["message"]
        assert httpx2.post(url + TEXT, json=body("base")).status_code == 200


def test_gateway_584_and_vllm_11727_a_damaged_adapter_is_a_422_and_stops_nobody_else(
    shop: Shop, alone: Lone, started: Callable[..., Engine]
) -> None:
    shop.push("damaged")
    (version,) = shop.registry.adapters.versions("damaged")
    blob = shop.registry.blobs.path(version.files["adapter_model.safetensors"])
    blob.chmod(0o644)
    damaged = bytearray(blob.read_bytes())
    damaged[-5] ^= 1
    blob.write_bytes(damaged)
    engine = started(slots=2)
    with running_server(create_app(engine)) as url:
        for _ in range(3):
            assert httpx2.post(url + TEXT, json=body("damaged"), timeout=30).status_code == 422
        heard = generate(engine, asking(shop, "damaged"), asking(shop, "a0"), asking(shop, "damaged"), asking(shop, "base"))
        assert [type(each.end) for each in heard] == [Failed, Ended, Failed, Ended]
        assert heard[1].tokens == alone(asking(shop, "a0"))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("executor", ["native", "general"])
def test_an_adapter_with_nan_is_refused_before_it_can_poison_a_batch(
    llama: World, tmp_path: Path, executor: str, poison: float
) -> None:
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(llama.adapters["all"], tmp_path / "poison")
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values())).flat[7] = poison
    save_file(tensors, folder / "adapter_model.safetensors")
    engine = World(llama.base, {"poison": folder}).engine(executor=executor)
    engine.start()
    base = Generation(LONG, None, 6, GREEDY)
    alone = one(engine, base)
    bad, good = generate(engine, Generation(LONG, digest_of("poison"), 6, GREEDY), base)
    engine.close()
    assert isinstance(bad.end, Failed)
    assert isinstance(bad.end.error, FormatError)
    assert good.tokens == alone.tokens


def test_sglang_15129_and_17913_a_stream_of_requests_for_one_adapter_does_not_starve_another(
    shop: Shop, alone: Lone, started: Callable[..., Engine]
) -> None:
    engine = started(slots=1, max_running=2)
    over: SimpleQueue[str] = SimpleQueue()

    def ask(name: str) -> None:
        def hear(event: Event) -> None:
            if isinstance(event, Ended | Failed):
                over.put(name)

        engine.submit(asking(shop, name, 40), hear)

    for name in ("a0", "a1", "a0", "a0"):
        ask(name)
    deadline, done = time.monotonic() + 60, 0
    while (name := over.get(timeout=60)) == "a0" and time.monotonic() < deadline:
        done += 1
        ask("a0")  # there is always somebody who wants a0
    assert name == "a1", f"{done} requests for a0 came first"


def test_sglang_13349_sixteen_adapters_on_eight_slots_are_read_once_each(shop: Shop, alone: Lone) -> None:
    watch = Counting()
    engine = shop.engine(watch, slots=8, max_running=16)
    engine.start()
    asked = [asking(shop, f"a{index % 16}", 4) for index in range(96)]
    heard = generate(engine, *asked)
    engine.close()
    wanted = {one.adapter: alone(one) for one in asked[:16]}
    assert [each.tokens for each in heard] == [wanted[each.adapter] for each in asked]
    assert watch.counts["loads"] == 16
    assert watch.counts["evictions"] <= 32
