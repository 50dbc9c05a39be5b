"""The wire itself: bytes of a stream, error bodies on every path, limits, keys, and clients that leave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from adreg.errors import UsageError
from adreg.serve.api.app import BODY_LIMIT, create_app
from adreg.serve.engine import Engine
from adreg.serve.server import running_server
from tests.serve.conftest import BASE_DIGEST, World
from tests.serve.test_isolation import settled

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
JSON = {"content-type": "application/json"}


@pytest.fixture
def http(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=60) as client:
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


def test_a_chat_stream_has_exactly_the_bytes_of_openai(http: httpx2.Client) -> None:
    answer = http.post(CHAT, json=ask()).json()
    response = http.post(CHAT, json=ask(stream=True, stream_options={"include_usage": True}))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = response.content.split(b"\n\n")
    assert events.pop() == b""
    assert events.pop() == b"data: [DONE]"
    first = json.loads(events[0].removeprefix(b"data: "))
    head = f'"id":"{first["id"]}","object":"chat.completion.chunk","created":{first["created"]},"model":"base"'
    start = f'data: {{{head},"system_fingerprint":"{BASE_DIGEST[3:15]}","choices":['
    usage = json.dumps(answer["usage"], separators=(",", ":"))

    def event(delta: str, reason: str = "null") -> str:
        return f'{start}{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}],"usage":null}}'

    pieces = [json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]["content"] for line in events[1:-2]]
    assert "".join(pieces) == answer["choices"][0]["message"]["content"]
    assert [line.decode() for line in events] == [
        event('{"role":"assistant","content":""}'),
        *(event(json.dumps({"content": piece}, ensure_ascii=False, separators=(",", ":"))) for piece in pieces),
        event("{}", '"length"'),
        f'{start}],"usage":{usage}}}',
    ]


def test_without_include_usage_no_chunk_speaks_of_usage(http: httpx2.Client) -> None:
    assert b"usage" not in http.post(CHAT, json=ask(stream=True)).content


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


def test_bodies_above_a_megabyte_are_refused_however_they_come(http: httpx2.Client) -> None:
    body = json.dumps(ask(messages=[{"role": "user", "content": "x" * BODY_LIMIT}])).encode()
    assert error_of(http.post(CHAT, content=body, headers=JSON), 413)["code"] == "body_too_large"
    # a generator is sent in chunks, without a length
    slices = (body[at : at + 65536] for at in range(0, len(body), 65536))
    assert error_of(http.post(CHAT, content=slices, headers=JSON), 413)["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": "0"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 4}, "max_tokens", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"stream": True, "stream_options": {"include_costs": True}}, "stream_options.include_costs", "unknown_parameter"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"top_k": 5}, "top_k", "unknown_parameter"),
        ({"top_k": None}, "top_k", "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [*HELLO, {"role": "user", "content": [{"type": "image_url"}]}]}, "messages[1].content", "invalid_value"),
        ({"messages": [{**HELLO[0], "name": "Ann"}]}, "messages[0].name", "unsupported_parameter"),
        ({"max_tokens": 40_000}, "messages", "context_length_exceeded"),
        ({"model": None}, "model", "invalid_value"),
    ],
)
def test_what_is_not_meant_or_not_supported_is_refused_by_parameter(
    http: httpx2.Client, changes: dict[str, Any], param: str, code: str | None
) -> None:
    error = error_of(http.post(CHAT, json=ask(**changes)), 400)
    assert (error["param"], error["code"]) == (param, code)


def test_values_that_ask_for_nothing_are_accepted(http: httpx2.Client) -> None:
    neutral: dict[str, Any] = {
        "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False, "top_logprobs": None, "logit_bias": {},
        "response_format": {"type": "text"}, "tools": [], "tool_choice": "auto", "user": "u-1", "store": False, "seed": None,
        "stop": None, "stream": False, "stream_options": None, "max_completion_tokens": 3, "parallel_tool_calls": True,
    }  # fmt: skip
    said: dict[str, Any] = {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": None, "annotations": []}
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    developer = {"role": "developer", "content": "be brief"}
    answer = http.post(CHAT, json=ask(messages=[developer, *HELLO, said, parts], **neutral)).json()
    system = {"role": "system", "content": "be brief"}
    plain = [system, *HELLO, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "a\nb"}]
    assert answer["choices"] == http.post(CHAT, json=ask(messages=plain)).json()["choices"]


@pytest.mark.parametrize("prompt", ["", [], [[]], [49152], [-1], [1, "a"], 5, {"a": 1}])
def test_prompts_that_are_none_are_refused(http: httpx2.Client, prompt: Any) -> None:
    error = error_of(http.post(TEXT, json={"model": "base", "prompt": prompt}), 400)
    assert error["param"].startswith("prompt")


def test_a_request_id_is_echoed_only_if_it_is_plain(http: httpx2.Client) -> None:
    assert http.get("/health", headers={"x-request-id": "trace-1.2"}).headers["x-request-id"] == "trace-1.2"
    assert http.get("/health", headers={"x-request-id": "a b" + "c" * 200}).headers["x-request-id"].isalnum()


def test_without_a_key_a_foreign_host_name_is_refused(http: httpx2.Client) -> None:
    assert error_of(http.get("/v1/models", headers={"host": "evil.example:8000"}), 403)["code"] == "host_not_allowed"
    assert http.get("/v1/models", headers={"host": "localhost:1"}).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(http: httpx2.Client, engine: Engine, stream: bool) -> None:
    endless = ask(max_tokens=30_000, stream=stream)
    if stream:
        with http.stream("POST", CHAT, json=endless) as response:
            chunks = response.iter_raw()
            assert b"role" in next(chunks) + next(chunks)
            assert engine.runner.slots == 1
    else:
        with pytest.raises(httpx2.ReadTimeout):
            http.post(CHAT, json=endless, timeout=0.5)
    assert settled(engine)


def test_a_full_queue_answers_429_with_retry_after(llama: World) -> None:
    engine = llama.engine(max_running=1, max_waiting=1)
    endless = ask(max_tokens=30_000, stream=True)
    with running_server(create_app(engine)) as url, httpx2.Client(base_url=url, timeout=60) as http:
        with http.stream("POST", CHAT, json=endless), http.stream("POST", CHAT, json=endless):
            refused = http.post(CHAT, json=ask())
            assert error_of(refused, 429)["code"] == "queue_full"
            assert refused.headers["retry-after"] == "1"
            two = http.post(TEXT, json={"model": "base", "prompt": ["a", "b", "c"]})
            assert error_of(two, 400)["param"] == "prompt"
        assert settled(engine)
        assert http.post(CHAT, json=ask()).status_code == 200


def test_with_a_key_only_its_bearer_comes_in(engine: Engine, llama: World) -> None:
    app = create_app(llama.engine(), api_key="s3cret")
    with running_server(app) as url, httpx2.Client(base_url=url, timeout=60) as http:
        wrong = ("", "Bearer s3cre", "Basic s3cret", "Bearer s3cret\xff")
        for given in wrong:
            refused = http.post(CHAT, json=ask(), headers={b"authorization": given.encode("latin-1")})
            assert error_of(refused, 401)["code"] == "invalid_api_key"
            assert refused.headers["www-authenticate"] == "Bearer"
        assert http.get("/nope").status_code == 401
        assert http.get("/health").json() == {"status": "ok"}
        assert http.post(CHAT, json=ask(), headers={"authorization": "Bearer s3cret"}).status_code == 200
    for key in ("", "two words", "ключ"):
        with pytest.raises(UsageError):
            create_app(engine, api_key=key)


def test_a_step_that_fails_is_a_500_or_an_error_event_and_a_bug_is_a_500(poisoned: World) -> None:
    engine = poisoned.engine()
    app = create_app(engine)
    app.add_api_route("/bug", lambda: 1 / 0)
    with running_server(app) as url, httpx2.Client(base_url=url, timeout=60) as http:
        assert error_of(http.post(CHAT, json=ask(model="inf")), 500)["type"] == "server_error"
        bug = http.get("/bug", headers={"x-request-id": "bug-1"})
        assert error_of(bug, 500)["type"] == "server_error"
        assert (bug.headers["x-request-id"], bug.headers["connection"]) == ("bug-1", "close")
        events = http.post(CHAT, json=ask(model="inf", stream=True)).content.split(b"\n\n")
        assert events[-1] == b""
        assert json.loads(events[-2].removeprefix(b"data: "))["error"]["type"] == "server_error"
        assert len(events) == 3, "more than a role chunk, the error, and nothing after it"
        assert http.post(CHAT, json=ask()).status_code == 200
    assert engine.runner.slots == 0


@pytest.mark.parametrize(("tokens", "grace", "finished"), [(300, 30, True), (30_000, 0, False)])
def test_a_running_stream_finishes_within_the_grace_or_is_cut(llama: World, tokens: int, grace: int, finished: bool) -> None:
    engine = llama.engine()
    lines: list[bytes] = []

    def listen(url: str) -> None:
        long = ask(max_tokens=tokens, stream=True)
        with suppress(httpx2.RemoteProtocolError), httpx2.stream("POST", url + CHAT, json=long, timeout=60) as response:
            for chunk in response.iter_raw():
                lines.append(chunk)  # noqa: PERF402, an interrupted stream keeps what has come

    with running_server(create_app(engine), grace=grace) as url:
        listener = threading.Thread(target=listen, args=(url,))
        listener.start()
        while not lines:
            time.sleep(0.01)
    listener.join()
    assert b"".join(lines).endswith(b"data: [DONE]\n\n") == finished
    assert not engine.alive
    assert engine.runner.slots == 0
