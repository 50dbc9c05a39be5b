"""The wire itself: error bodies on every path, parameters by name, limits, statuses, and clients that leave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adreg.serve.api.app import create_app
from adreg.serve.api.guard import BODY_LIMIT
from adreg.serve.api.service import Options
from adreg.serve.engine.engine import Engine
from adreg.serve.generation import Sampling
from adreg.serve.server.server import running_server
from tests.serve.conftest import settled
from tests.serve.parrot import BASE_DIGEST, SENTENCES, digest_of, parrot, served

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
JSON = {"content-type": "application/json"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def server(tokenizer_folder: Path) -> Iterator[tuple[str, Engine]]:
    with served(tokenizer_folder) as (url, engine, _):
        yield url, engine


@pytest.fixture
def http(server: tuple[str, Engine]) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server[0], timeout=60) as client:
        yield client


def ask(**changes: Any) -> dict[str, Any]:
    return {"model": "base", "messages": HELLO, "temperature": 0, "max_tokens": 3, **changes}


def error_of(response: httpx2.Response, status: int) -> dict[str, Any]:
    """The error object, after checking that the body is exactly one."""
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert isinstance(body["error"]["message"], str)
    assert response.headers["x-request-id"]
    return dict(body["error"])


def test_every_refusal_has_openais_body(http: httpx2.Client) -> None:
    assert error_of(http.get("/nope"), 404)["type"] == "invalid_request_error"
    assert error_of(http.get("/v1/models/nope/deeper"), 404)["code"] == "model_not_found"
    refused = http.get(CHAT)
    assert error_of(refused, 405)
    assert refused.headers["allow"] == "POST"
    assert error_of(http.post(CHAT, content=b"{", headers=JSON), 400)["code"] == "invalid_json"
    assert error_of(http.post(CHAT, content=b"[" * 9000, headers=JSON), 400)["code"] == "invalid_json"
    assert error_of(http.post(CHAT, content=b'{"model":"\\ud800"}', headers=JSON), 400)["code"] == "invalid_json"
    assert error_of(http.post(CHAT, content=b"model=base"), 415)["code"] == "invalid_content_type"
    assert error_of(http.post(CHAT, json=[]), 400)["param"] is None
    assert error_of(http.post("/v1/embeddings", json={}), 400)["code"] == "unsupported_endpoint"


@pytest.mark.parametrize("stream", [True, False])
def test_a_model_that_cannot_answer_is_said_by_status_and_never_replaced(http: httpx2.Client, stream: bool) -> None:
    def error(model: str, status: int) -> dict[str, Any]:
        found = error_of(http.post(CHAT, json=ask(model=model, stream=stream)), status)
        assert found["param"] == "model"
        return found

    assert error("demo/fix", 404)["code"] == "model_not_found"
    assert "did you mean demo/fox" in error("demo/fo", 404)["message"]
    foreign = error("demo/foreign", 409)
    assert foreign["code"] == "incompatible_base"
    assert "B-ID-1 was trained on another base" in foreign["message"]
    broken = error("demo/broken", 422)
    assert broken["code"] == "model_not_loadable"
    assert "adapter_model.safetensors: ends in the middle" in broken["message"]
    assert "/srv/secret" not in broken["message"]


def test_the_answer_names_what_made_it(http: httpx2.Client) -> None:
    for model in ("base", "demo/fox", "demo/fox:prod"):
        response = http.post(CHAT, json=ask(model=model))
        digest = None if model == "base" else digest_of("demo/fox")
        assert response.headers["x-adreg-base"] == BASE_DIGEST
        assert response.headers["x-adreg-adapter"] == (digest or "none")
        assert response.json()["system_fingerprint"] == BASE_DIGEST[3:15] + (digest[7:19] if digest else "")
        assert response.json()["model"] == model


def test_models_tell_parent_root_rank_and_state(http: httpx2.Client) -> None:
    http.post(CHAT, json=ask(model="demo/fox"))
    listed = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    assert next(iter(listed)) == "base"
    fox = listed["demo/fox:prod"]
    assert (fox["parent"], fox["root"], fox["rank"], fox["state"]) == ("base", digest_of("demo/fox"), 8, "resident")
    assert fox["max_model_len"] == 4096
    assert http.get("/v1/models/demo/fox:prod").json() == fox
    assert error_of(http.get("/v1/models/demo/foreign"), 409)["code"] == "incompatible_base"


def test_bodies_above_a_megabyte_are_refused_however_they_come(http: httpx2.Client) -> None:
    body = json.dumps(ask(messages=[{"role": "user", "content": "x" * BODY_LIMIT}])).encode()
    assert error_of(http.post(CHAT, content=body, headers=JSON), 413)["code"] == "body_too_large"
    # a generator is sent in chunks, without a length
    slices = (body[at : at + 65536] for at in range(0, len(body), 65536))
    assert error_of(http.post(CHAT, content=slices, headers=JSON), 413)["code"] == "body_too_large"


SCHEMA = {"type": "json_schema", "json_schema": {"name": "x"}}


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": "0"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"min_p": 1.5}, "min_p", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"presence_penalty": 2.5}, "presence_penalty", "invalid_value"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"49152": 1}}, "logit_bias", "invalid_value"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 4}, "max_tokens", "invalid_value"),
        ({"min_tokens": 4}, "min_tokens", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"include_costs": True}}, "stream_options.include_costs", "unknown_parameter"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 41}, "messages", "invalid_value"),
        ({"n": 2, "best_of": 3}, "best_of", "unsupported_parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        ({"response_format": SCHEMA}, "response_format.json_schema.schema", "missing_required_parameter"),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar", "unknown_parameter"),
        ({"guided_regex": "a"}, "guided_regex", "unknown_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [TOOL]}, "tools", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        ({"chat_template": "{{ 1 }}"}, "chat_template", "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "oracle", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [*HELLO, {"role": "user", "content": [{"type": "image_url"}]}]}, "messages[1].content", "invalid_value"),
        ({"messages": [{**HELLO[0], "name": "Ann"}]}, "messages[0].name", "unsupported_parameter"),
        ({"max_tokens": 40_000}, "messages", "context_length_exceeded"),
        ({"model": None}, "model", "invalid_value"),
    ],
)
def test_what_is_not_meant_or_not_supported_is_refused_by_parameter(
    http: httpx2.Client, changes: dict[str, Any], param: str, code: str
) -> None:
    error = error_of(http.post(CHAT, json=ask(**changes)), 400)
    assert (error["param"], error["code"]) == (param, code)


def test_values_that_ask_for_nothing_are_accepted(http: httpx2.Client) -> None:
    neutral: dict[str, Any] = {
        "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False, "top_logprobs": None, "logit_bias": {},
        "response_format": {"type": "text"}, "tools": [], "tool_choice": "auto", "user": "u-1", "store": False, "seed": None,
        "stop": None, "stream": False, "stream_options": None, "max_completion_tokens": 3, "parallel_tool_calls": True,
        "top_k": -1, "min_p": 0, "repetition_penalty": 1, "best_of": 1, "skip_special_tokens": True,
    }  # fmt: skip
    said: dict[str, Any] = {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": None, "annotations": []}
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    developer = {"role": "developer", "content": "be brief"}
    answer = http.post(CHAT, json=ask(messages=[developer, *HELLO, said, parts], **neutral)).json()
    system = {"role": "system", "content": "be brief"}
    plain = [system, *HELLO, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "a\nb"}]
    again = http.post(CHAT, json=ask(messages=plain)).json()
    assert answer["choices"] == again["choices"]
    assert answer["usage"]["prompt_tokens"] == again["usage"]["prompt_tokens"]


@pytest.mark.parametrize("prompt", ["", [], [[]], [49152], [-1], [1, "a"], 5, {"a": 1}])
def test_prompts_that_are_none_are_refused(http: httpx2.Client, prompt: Any) -> None:
    error = error_of(http.post(TEXT, json={"model": "base", "prompt": prompt}), 400)
    assert error["param"].startswith("prompt")


def test_stops_lengths_and_ends_are_as_asked(http: httpx2.Client) -> None:
    def say(**changes: Any) -> tuple[str, str]:
        choice = http.post(CHAT, json=ask(model="demo/fox", max_tokens=30, **changes)).json()["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]

    fox = SENTENCES["demo/fox"]
    assert say() == (fox, "stop")
    assert say(stop="over t") == ("A quick brown fox jumps ", "stop")
    assert say(stop_token_ids=http.post("/tokenize", json={"model": "base", "prompt": " jumps"}).json()["tokens"]) == (
        "A quick brown fox", "stop"
    )  # fmt: skip
    assert say(ignore_eos=True)[1] == "length"
    assert say(min_tokens=15)[0].startswith(fox + "A quick")


def test_a_token_can_be_banned_and_the_base_has_its_own_defaults(tokenizer_folder: Path) -> None:
    with served(tokenizer_folder, defaults=Sampling(temperature=0)) as (url, _, _), httpx2.Client(base_url=url) as http:
        body = {"model": "demo/fox", "prompt": "x", "max_tokens": 2}
        texts = {http.post(TEXT, json=body).json()["choices"][0]["text"] for _ in range(8)}
        assert texts == {"A quick"}
        (quick,) = http.post("/tokenize", json={"model": "base", "prompt": " quick"}).json()["tokens"]
        banned = http.post(TEXT, json={**body, "logit_bias": {str(quick): -100}}).json()
        assert banned["choices"][0]["text"] == "A brown"


def test_choices_are_as_many_as_asked_and_a_seed_gives_each_its_own(http: httpx2.Client) -> None:
    body = {"model": "demo/owl", "prompt": ["a", "b"], "max_tokens": 6, "temperature": 2, "n": 3, "seed": 5}
    first, second = (http.post(TEXT, json=body).json() for _ in range(2))
    assert [choice["index"] for choice in first["choices"]] == list(range(6))
    texts = [choice["text"] for choice in first["choices"]]
    assert texts == [choice["text"] for choice in second["choices"]]
    assert len(set(texts[:3])) == 3
    # a prompt that is answered three times was read once
    assert (first["usage"]["prompt_tokens"], first["usage"]["completion_tokens"]) == (2, 36)


def test_tokenize_and_detokenize_are_each_others_way_back(http: httpx2.Client) -> None:
    told = http.post("/tokenize", json={"model": "demo/fox", "prompt": "王 lights 🙂"}).json()
    assert told["count"] == len(told["tokens"])
    assert http.post("/detokenize", json={"model": "base", "tokens": told["tokens"]}).json() == {"prompt": "王 lights 🙂"}
    chat = http.post("/tokenize", json={"model": "base", "messages": HELLO}).json()
    assert chat["count"] == http.post(CHAT, json=ask()).json()["usage"]["prompt_tokens"]
    assert error_of(http.post("/tokenize", json={"model": "base"}), 400)["param"] == "prompt"
    assert error_of(http.post("/detokenize", json={"model": "base", "tokens": [10**6]}), 400)["param"] == "tokens"


def test_a_request_id_is_echoed_only_if_it_is_plain(http: httpx2.Client) -> None:
    assert http.get("/health", headers={"x-request-id": "trace-1.2"}).headers["x-request-id"] == "trace-1.2"
    assert http.get("/health", headers={"x-request-id": "a b" + "c" * 200}).headers["x-request-id"].isalnum()


def test_without_a_key_foreign_names_and_pages_are_refused(http: httpx2.Client) -> None:
    assert error_of(http.get("/v1/models", headers={"host": "evil.example:8000"}), 403)["code"] == "host_not_allowed"
    assert error_of(http.get("/v1/models", headers={"origin": "https://evil.example"}), 403)["code"] == "origin_not_allowed"
    answer = http.get("/v1/models", headers={"host": "localhost:1"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place_and_is_no_error(
    tokenizer_folder: Path, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    endless = ask(max_tokens=4000, stream=stream, ignore_eos=True)
    with served(tokenizer_folder) as (url, engine, executor), httpx2.Client(base_url=url) as http:
        executor.pause = 0.01
        if stream:
            with http.stream("POST", CHAT, json=endless) as response:
                assert b"role" in next(response.iter_raw())
                assert engine.stats().running == 1
        else:
            with pytest.raises(httpx2.ReadTimeout):
                http.post(CHAT, json=endless, timeout=0.3)
        assert settled(engine)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_full_queue_answers_429_with_retry_after(tokenizer_folder: Path) -> None:
    endless = ask(max_tokens=4000, stream=True, ignore_eos=True)
    with served(tokenizer_folder, running=1, waiting=1) as (url, engine, executor), httpx2.Client(base_url=url) as http:
        executor.pause = 0.01
        with http.stream("POST", CHAT, json=endless):
            waiting = threading.Thread(target=lambda: http.post(CHAT, json=ask()))
            waiting.start()
            while engine.stats().waiting < 1:
                time.sleep(0.01)
            refused = http.post(CHAT, json=ask())
            assert error_of(refused, 429)["code"] == "queue_full"
            assert int(refused.headers["retry-after"]) >= 1
            three = http.post(TEXT, json={"model": "base", "prompt": ["a", "b", "c"]})
            assert error_of(three, 400)["param"] == "prompt"
        waiting.join()
        assert settled(engine)


def test_a_request_whose_time_is_over_is_a_504(tokenizer_folder: Path) -> None:
    with served(tokenizer_folder, Options(seconds=0.2)) as (url, _, executor), httpx2.Client(base_url=url) as http:
        executor.pause = 0.05
        late = error_of(http.post(CHAT, json=ask(max_tokens=100, ignore_eos=True)), 504)
        assert late["code"] == "deadline_exceeded"
        events = http.post(CHAT, json=ask(max_tokens=100, ignore_eos=True, stream=True)).content.split(b"\n\n")
        assert json.loads(events[-2].removeprefix(b"data: "))["error"]["code"] == "deadline_exceeded"


def test_a_prompt_may_fill_the_whole_context_where_nothing_is_to_follow(
    http: httpx2.Client, server: tuple[str, Engine]
) -> None:
    context = server[1].limits.context
    ids = [17] * context
    asked = {"model": "demo/fox", "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1}
    answer = http.post(TEXT, json=asked).json()
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] == context
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == context
    for changes in ({"max_tokens": 1}, {"prompt": [*ids, 17]}):
        assert error_of(http.post(TEXT, json=asked | changes), 400)["code"] == "context_length_exceeded"


def test_a_bug_is_a_500_that_tells_nothing(tokenizer_folder: Path) -> None:
    engine, _ = parrot(tokenizer_folder)
    app = create_app(engine)
    app.add_route("/bug", lambda _: 1 / 0)  # type: ignore[arg-type,return-value]
    with running_server(app) as url, httpx2.Client(base_url=url) as http:
        bug = http.get("/bug", headers={"x-request-id": "bug-1"})
        assert error_of(bug, 500)["type"] == "server_error"
        assert (bug.headers["x-request-id"], bug.headers["connection"]) == ("bug-1", "close")
        assert "division" not in bug.text
        assert http.post(CHAT, json=ask()).status_code == 200


@pytest.mark.parametrize(("tokens", "grace", "finished"), [(100, 30, True), (4000, 0, False)])
def test_a_running_stream_finishes_within_the_grace_or_is_cut(
    tokenizer_folder: Path, tokens: int, grace: int, finished: bool
) -> None:
    lines: list[bytes] = []

    def listen(url: str) -> None:
        long = ask(max_tokens=tokens, stream=True, ignore_eos=True)
        with suppress(httpx2.RemoteProtocolError), httpx2.stream("POST", url + CHAT, json=long, timeout=60) as response:
            for chunk in response.iter_raw():
                lines.append(chunk)  # noqa: PERF402, an interrupted stream keeps what has come

    with served(tokenizer_folder, grace=grace) as (url, engine, executor):
        executor.pause = 0.003
        listener = threading.Thread(target=listen, args=(url,))
        listener.start()
        while not lines:
            time.sleep(0.01)
        assert httpx2.get(f"{url}/ready").json() == {"status": "ready"}
    listener.join()
    assert b"".join(lines).endswith(b"data: [DONE]\n\n") == finished
    assert not engine.alive


def test_health_tells_an_engine_that_has_failed(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tokenizer_folder) as (url, engine, _):
        assert httpx2.get(f"{url}/health").status_code == 200
        monkeypatch.setattr(engine._parts.pool, "tick", lambda: 1 / 0)
        assert httpx2.post(url + CHAT, json=ask()).status_code >= 500
        told = httpx2.get(f"{url}/health")
        assert told.status_code == 503 and told.json() == {"status": "engine failed"}
        assert httpx2.get(f"{url}/ready").status_code == 503
