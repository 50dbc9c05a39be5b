"""What goes to an upstream and what does not; what a client may not send; limits, keys and counts."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from adreg.serve.gateway.dialects import OpenAIDialect
from adreg.serve.server.keys import Key, Keyring, key_file
from tests.serve.gateway.scripted import (
    DONE,
    EVENT,
    OVER,
    STREAM,
    TEXT,
    USAGE,
    Gate,
    Scripted,
    answer,
    chunk,
    gate,
    said,
    sends,
)
from tests.serve.hostile import connected, heard
from tests.serve.parrot import Names, served

WELL = sends(answer(said("well")))


def test_only_what_an_engine_needs_goes_on_and_only_what_a_client_needs_comes_back() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n"
    theirs = (
        b"server: x\r\nset-cookie: a=b\r\nx-adreg-adapter: forged\r\naccess-control-allow-origin: *\r\nretry-after: 3\r\n\r\n{}"
    )
    engine = Scripted(sends(head + theirs))
    ours = {
        "authorization": "Bearer of-the-client",
        "cookie": "a=b",
        "connection": "x-hop, keep-alive",
        "x-hop": "1",
        "te": "trailers",
        "proxy-authorization": "x",
        "expect": "",
        "x-request-id": "mine-1",
        "traceparent": "00-1-2-01",
    }
    with gate(engine, key="of-the-upstream") as found:
        answered = found.ask(ours, stop="\u2028", seed=2**60, temperature=0.1)
    sent = engine.asked[0]
    assert sent.line == f"POST {TEXT} HTTP/1.1"
    assert sent.json == {"model": "base", "prompt": "x", "stop": "\u2028", "seed": 2**60, "temperature": 0.1}
    named = {name: sent.headers.pop(name) for name in ("authorization", "x-request-id", "traceparent", "content-type")}
    assert list(named.values()) == ["Bearer of-the-upstream", "mine-1", "00-1-2-01", "application/json"]
    assert set(sent.headers) == {"host", "content-length", "user-agent"}
    got = {name for name in answered.headers if name != "date"}
    assert got == {"content-type", "content-length", "retry-after", "x-adreg-upstream", "x-request-id"}
    assert answered.headers["x-request-id"] == "mine-1"


def test_requests_that_two_readers_could_read_differently_go_nowhere() -> None:
    body = b'{"model": "base", "prompt": "x"}'
    lines = [f"POST {TEXT} HTTP/1.1".encode(), b"host: localhost", b"content-type: application/json", b"connection: close"]
    raw = {
        "two lengths": (400, [b"content-length: 3", b"content-length: %d" % len(body)], body),
        "no number": (400, [b"content-length: +5"], body),
        "no chunks": (400, [b"transfer-encoding: chunked"], b"nonsense\r\n" + body),
        "another coding": (400, [b"transfer-encoding: gzip"], body),
        "a name twice": (400, [b"content-length: 35"], b'{"model": "base", "model": "other"}'),
        "no number in JSON": (400, [b"content-length: 29"], b'{"model": "base", "top_p":NaN}'),
        "no object": (400, [b"content-length: 6"], b'["base'),
        "no model": (400, [b"content-length: 2"], b"{}"),
    }
    engine = Scripted(WELL)
    with gate(engine) as found:
        for what, (status, headers, sent) in raw.items():
            with connected(found.url) as client:
                client.sendall(b"\r\n".join([*lines, *headers, b"", sent]))
                said_back = heard(client)
                assert said_back.startswith(f"HTTP/1.1 {status} ".encode()), (what, said_back[:200])
        assert found.ask({"content-type": "text/plain"}).status_code == 415
        assert found.error(413, prompt="x" * (1 << 20)) == "body_too_large"
        assert found.http.post("/v1/responses", json={"model": "base"}).status_code == 404
    assert not engine.asked


@pytest.fixture
def slow() -> Iterator[tuple[Scripted, threading.Event]]:
    """An engine that answers when it is let."""
    let = threading.Event()

    def script(client: socket.socket) -> bool:
        client.sendall(STREAM + chunk(EVENT % b"one"))
        while not let.wait(0.02):
            client.setblocking(False)
            try:
                if not client.recv(1):
                    return False
            except BlockingIOError:
                pass
            finally:
                client.setblocking(True)
        client.sendall(chunk(DONE) + OVER)
        return True

    yield Scripted(script), let
    let.set()


def settled(found: Gate, running: int) -> bool:
    deadline = time.monotonic() + 10
    while sum(one.running for one in found.fleet.upstreams) != running and time.monotonic() < deadline:
        time.sleep(0.02)
    return sum(one.running for one in found.fleet.upstreams) == running


def test_a_client_that_goes_ends_its_request_upstream(slow: tuple[Scripted, threading.Event]) -> None:
    engine, _ = slow
    with gate(engine) as found:
        with found.http.stream("POST", TEXT, json={"model": "base", "stream": True}) as answered:
            assert next(answered.iter_raw())
        assert engine.gone.wait(10)
        assert settled(found, 0)
        assert found.fleet.upstreams[0].outcomes == {"client_gone": 1}


def test_one_too_many_is_told_to_come_back_and_who_waits_is_served(slow: tuple[Scripted, threading.Event]) -> None:
    engine, let = slow
    with gate(engine, per_upstream=1, waiting=1) as found, ExitStack() as stack:
        body = {"model": "base", "stream": True}
        first = stack.enter_context(found.http.stream("POST", TEXT, json=body))
        answers: list[bytes] = []
        second = threading.Thread(target=lambda: answers.append(found.ask(stream=True).content))
        second.start()
        while found.http.get("/status").json()["waiting"] != 1:
            time.sleep(0.02)
        third = found.ask()
        assert (third.status_code, third.json()["error"]["code"]) == (429, "queue_full")
        assert third.headers["retry-after"] == "1"
        assert len(engine.asked) == 1
        let.set()
        assert first.read() == EVENT % b"one" + DONE
        second.join()
        assert answers == [EVENT % b"one" + DONE]


def test_keys_pay_for_what_answers_tell_and_for_an_estimate_where_they_do_not(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        'keys = [{id = "few", secret = "secret-of-few-0123", tokens_per_minute = 15},'
        '{id = "other", secret = "secret-of-other-01", tokens_per_minute = 15, models = ["sql*"]}]'
    )
    untold = sends(STREAM, chunk(EVENT % b"one" * 20), chunk(DONE) + OVER)
    engine, log = Scripted(WELL), io.StringIO()
    few, other = ({"authorization": f"Bearer {secret}"} for secret in ("secret-of-few-0123", "secret-of-other-01"))
    with gate(engine, keys=key_file(keys), access_log=log) as found:
        assert found.ask().status_code == 401
        for status in (200, 200, 429):  # of 10 tokens each
            assert found.ask(few).status_code == status
        assert found.ask(other).status_code == 404
        engine.script = untold
        for status in (200, 429):
            assert found.ask(other, model="sql", stream=True).status_code == status
        assert found.http.get("/metrics", headers=other).status_code == 403
        text = found.http.get("/metrics", headers=few).text
    assert 'adreg_requests_total{adapter="base",code="200"} 2.0' in text
    assert 'adreg_tokens_total{adapter="base",kind="prompt"} 14.0' in text
    assert 'adreg_upstream_requests_total{outcome="answered",upstream="' in text
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    told = next(line for line in lines if line["status"] == 200)
    assert (told["key"], told["model"], told["prompt_tokens"]) == ("few", "base", USAGE["prompt_tokens"])
    assert all("secret" not in json.dumps(line) for line in lines)


def test_tenants_share_no_prefix_behind_the_one_key_of_the_gateway(tokenizer_folder: Path) -> None:
    keys = Keyring(lambda: {}).and_also("secret-of-the-first", Key("first")).and_also("secret-of-the-other", Key("other"))
    prompt = "The keeper lights a lamp. " * 30

    def cached(found: Gate, who: str, **changes: Any) -> int:
        body = {"model": "base", "prompt": prompt, "max_tokens": 1, **changes}
        answered = found.http.post("/v1/completions", json=body, headers={"authorization": f"Bearer secret-of-the-{who}"})
        return int(answered.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    with served(tokenizer_folder) as (url, _, _), gate(url, catalog=Names(), dialect=OpenAIDialect(), keys=keys) as found:
        assert [cached(found, who) for who in ("first", "other")] == [0, 0]
        assert cached(found, "first") > 100
        assert cached(found, "first", cache_salt="another") == 0
