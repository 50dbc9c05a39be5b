"""The official client against a real port: base and adapters at once, streamed and whole, as each answers alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from adreg.serve.engine.engine import Engine
from adreg.serve.generation import Ended, Generation
from tests.serve.conftest import BASE_DIGEST, GREEDY, digest_of, generate
from tests.serve.parrot import served

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
    prompt = engine.tokenizers.base.chat([dict(message) for message in MESSAGES])
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

    ids = [list(engine.tokenizers.base.encode(text)) for text in ("the lamp", "the sea")]
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


def test_stop_strings_and_the_end_token_stop_and_are_not_sent(client: OpenAI, engine: Engine) -> None:
    full = client.completions.create(model="base", prompt="light", temperature=0, max_tokens=30).choices[0].text
    stop = full[20:26]
    same: Any = {"model": "base", "prompt": "light", "temperature": 0, "max_tokens": 30, "stop": [stop]}
    cut_short = client.completions.create(**same).choices[0]
    chunks = list(client.completions.create(**same, stream=True))
    assert cut_short.text == "".join(chunk.choices[0].text for chunk in chunks) == full[: full.index(stop)]
    assert cut_short.finish_reason == chunks[-1].choices[0].finish_reason == "stop"
    prompt = engine.tokenizers.base.encode("light")
    (heard,) = generate(engine, Generation(prompt, None, 30, GREEDY))
    end = heard.tokens[9]
    (ended,) = generate(engine, Generation(prompt, None, 30, GREEDY, stop_ids=frozenset({end})))
    assert ended.tokens == heard.tokens[: heard.tokens.index(end) + 1]
    assert ended.end == Ended("stop", len(prompt), len(ended.tokens))
    assert ended.text == engine.tokenizers.base.decode(ended.tokens[:-1])


def test_refusals_reach_the_client_as_its_own_errors(parrot: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        parrot.chat.completions.create(model="demo/fo", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert "did you mean demo/fox" in missing.value.message
    with pytest.raises(openai.BadRequestError) as long:
        parrot.completions.create(model="base", prompt="the sea " * 20_000)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.ConflictError) as foreign:
        parrot.chat.completions.create(model="demo/foreign", messages=MESSAGES, stream=True)
    assert foreign.value.code == "incompatible_base"
    with pytest.raises(openai.UnprocessableEntityError):
        parrot.chat.completions.create(model="demo/broken", messages=MESSAGES, stream=True)
    with pytest.raises(openai.BadRequestError) as unsupported:
        parrot.chat.completions.create(model="base", messages=MESSAGES, reasoning_effort="high")
    assert (unsupported.value.code, unsupported.value.param) == ("unsupported_parameter", "reasoning_effort")
    with pytest.raises(openai.BadRequestError, match="embeddings is not supported"):
        parrot.embeddings.create(model="base", input="x")


@pytest.fixture(scope="module")
def parrot(tokenizer_folder: Path) -> Iterator[OpenAI]:
    """A client of a server that recites."""
    with served(tokenizer_folder) as (url, _, _), OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_logprobs_are_told_the_same_way_whole_and_streamed(parrot: OpenAI) -> None:
    asked: Any = {
        "model": "base",
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 12,
        "logprobs": True,
        "top_logprobs": 3,
    }
    answer = parrot.chat.completions.create(**asked).choices[0]
    assert answer.logprobs and answer.logprobs.content and len(answer.logprobs.content) == 12
    entries = answer.logprobs.content
    assert b"".join(bytes(entry.bytes or []) for entry in entries).decode() == answer.message.content
    for entry in entries:
        tops = [top.logprob for top in entry.top_logprobs]
        assert tops == sorted(tops, reverse=True)
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob)
    streamed = [chunk.choices[0].logprobs for chunk in parrot.chat.completions.create(**asked, stream=True)]
    assert [entry for part in streamed if part for entry in part.content or []] == entries


def test_a_score_of_a_text_has_offsets_into_it(parrot: OpenAI) -> None:
    text = "The keeper lights a lamp"
    answer = parrot.completions.create(model="base", prompt=text, echo=True, logprobs=1, max_tokens=0).choices[0]
    scores = answer.logprobs
    assert answer.text == text
    assert scores and scores.tokens and scores.text_offset
    values: list[float | None] = list(scores.token_logprobs or [])
    assert "".join(scores.tokens) == text
    assert [text[at:].startswith(token) for at, token in zip(scores.text_offset, scores.tokens, strict=True)] == [True] * 5
    assert values[0] is None
    assert all(value is not None and value > -1 for value in values[1:])


def test_choices_of_a_stream_are_told_apart(parrot: OpenAI) -> None:
    texts = ["", "", ""]
    asked: Any = {"model": "demo/owl", "messages": MESSAGES, "n": 3, "seed": 1, "temperature": 2, "max_tokens": 8}
    for chunk in parrot.chat.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    whole = parrot.chat.completions.create(**asked)
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3


def test_a_tools_call_and_its_answer_are_told_to_a_template_that_takes_them(parrot: OpenAI) -> None:
    """SmolLM2's template takes no tools, and says so; tool_choice none withholds them."""
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    with pytest.raises(openai.BadRequestError) as refused:
        parrot.chat.completions.create(model="base", messages=MESSAGES, tools=tools)
    assert refused.value.param == "tools"
    call: Any = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sea"}'}}
    told: Any = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "fog"},
    ]
    answer = parrot.chat.completions.create(
        model="base", messages=told, tools=tools, tool_choice="none", temperature=0, max_tokens=3
    )
    assert answer.choices[0].message.content == "The keeper lights"


def test_answers_have_the_form_that_was_asked_for(parrot: OpenAI) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"ships": {"enum": [7]}}, "required": ["ships"], "additionalProperties": False}

    def say(**asked: Any) -> str:
        answer = parrot.chat.completions.create(model="base", messages=MESSAGES, temperature=0, max_tokens=40, **asked)
        return answer.choices[0].message.content or ""

    wanted: Any = {"type": "json_schema", "json_schema": {"name": "fleet", "schema": schema, "strict": True}}
    assert json.loads(say(response_format=wanted)) == {"ships": 7}
    assert re.fullmatch("[0-9]{3}-[a-c]", say(extra_body={"structured_outputs": {"regex": "[0-9]{3}-[a-c]"}}))
    assert say(extra_body={"structured_outputs": {"choice": ["yes (1)", "no (2)"]}}) in ("yes (1)", "no (2)")
    with pytest.raises(openai.BadRequestError):
        say(extra_body={"structured_outputs": {"regex": "(unclosed"}})
