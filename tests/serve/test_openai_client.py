"""The official client against a real port: base and adapters at once, streamed and whole, as each answers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import OpenAI

from adreg.serve.engine import Engine
from adreg.serve.sequence import Ended, Generation
from tests.serve.conftest import BASE_DIGEST, GREEDY, digest_of, generate

MODELS = ("base", "all", "ns/qv:prod", "ends")
MESSAGES: Any = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "你好 🙂, who keeps the light?"}]


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def whole(client: OpenAI, model: str) -> str:
    answer = client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, max_tokens=48)
    assert answer.choices[0].finish_reason == "length"
    assert answer.model == model
    return answer.choices[0].message.content or ""


def streamed(client: OpenAI, model: str) -> str:
    stream = client.chat.completions.create(
        model=model, messages=MESSAGES, temperature=0, max_tokens=48, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 48
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])


def test_four_models_at_once_answer_as_each_does_alone_and_as_the_engine_does(client: OpenAI, engine: Engine) -> None:
    prompt = engine.tokenizer.chat([dict(message) for message in MESSAGES])
    digests = [None, *map(digest_of, MODELS[1:])]
    inside = [generate(engine, Generation(prompt, digest, 48, GREEDY))[0].text for digest in digests]
    ways: list[Callable[[OpenAI, str], str]] = [whole, streamed]
    with ThreadPoolExecutor(8) as threads:
        calls = [[threads.submit(way, client, model) for way in ways] for model in MODELS]
        together = [[call.result() for call in pair] for pair in calls]
    assert together == [[text, text] for text in inside]
    assert len(set(inside)) == 4


def test_the_answer_says_what_it_was_made_with(client: OpenAI) -> None:
    for model in MODELS:
        response = client.chat.completions.with_raw_response.create(model=model, messages=MESSAGES, max_tokens=1)
        digest = digest_of(model) if model != "base" else None
        assert response.headers["x-adreg-adapter"] == (digest or "none")
        wanted = BASE_DIGEST[3:15] + (digest[7:19] if digest else "")
        assert response.parse().system_fingerprint == wanted


def test_models_are_listed_with_parent_and_root(client: OpenAI) -> None:
    listed = client.models.list().data
    assert [model.id for model in listed] == list(MODELS)
    assert [(m.parent, m.root) for m in listed] == [(None, BASE_DIGEST), *(("base", digest_of(n)) for n in MODELS[1:])]  # type: ignore[attr-defined]
    assert client.models.retrieve("ns/qv:prod").id == "ns/qv:prod"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("ns/qv")


def test_completions_take_texts_lists_and_token_ids(client: OpenAI, engine: Engine) -> None:
    def texts(prompt: Any) -> list[str]:
        answer = client.completions.create(model="all", prompt=prompt, temperature=0, max_tokens=8)
        assert answer.usage and answer.usage.completion_tokens == 8 * len(answer.choices)
        return [choice.text for choice in answer.choices]

    ids = [list(engine.tokenizer.encode(text)) for text in ("the lamp", "the sea")]
    assert texts(["the lamp", "the sea"]) == texts(ids) == texts("the lamp") + texts(ids[1])
    stream = client.completions.create(model="all", prompt=ids, temperature=0, max_tokens=8, stream=True)
    got = ["", ""]
    for chunk in stream:
        got[chunk.choices[0].index] += chunk.choices[0].text
    assert got == texts(ids)


def test_a_seed_repeats_its_answer_whoever_else_is_served(client: OpenAI) -> None:
    def ask(seed: int | None) -> str:
        answer = client.completions.create(model="all", prompt="light", temperature=1, top_p=0.9, max_tokens=12, seed=seed)
        return answer.choices[0].text

    alone = ask(7)
    with ThreadPoolExecutor(6) as threads:
        crowd = list(threads.map(ask, [7, None, 8, None, 7]))
    assert crowd[0] == crowd[4] == alone
    assert len(set(crowd)) == 4


def test_stop_strings_and_the_end_token_stop_and_are_not_sent(
    client: OpenAI, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = client.completions.create(model="base", prompt="light", temperature=0, max_tokens=30).choices[0].text
    stop = full[20:26]
    same: Any = {"model": "base", "prompt": "light", "temperature": 0, "max_tokens": 30, "stop": [stop]}
    cut_short = client.completions.create(**same).choices[0]
    chunks = list(client.completions.create(**same, stream=True))
    assert cut_short.text == "".join(chunk.choices[0].text for chunk in chunks) == full[: full.index(stop)]
    assert cut_short.finish_reason == chunks[-1].choices[0].finish_reason == "stop"
    prompt = engine.tokenizer.encode("light")
    (heard,) = generate(engine, Generation(prompt, None, 30, GREEDY))
    end = heard.tokens[9]
    monkeypatch.setattr(engine, "_stop_ids", frozenset({end}))
    (ended,) = generate(engine, Generation(prompt, None, 30, GREEDY))
    assert ended.tokens == heard.tokens[: heard.tokens.index(end) + 1]
    assert ended.end == Ended("stop", len(prompt), len(ended.tokens))
    assert ended.text == engine.tokenizer.decode(ended.tokens[:-1])


def test_refusals_reach_the_client_as_its_own_errors(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="al", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert "did you mean all?" in missing.value.message
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="all", prompt="the sea " * 20_000)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.chat.completions.create(model="all", messages=MESSAGES, n=2)
    assert (unsupported.value.code, unsupported.value.param) == ("unsupported_parameter", "n")
