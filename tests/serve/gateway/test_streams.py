"""Streams on their way through: unchanged, as they come, and with an end that cannot be mistaken for a whole answer."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.serve.gateway.scripted import DONE, EVENT, OVER, STREAM, Scripted, chunk, gate, never, sends


def events(response: httpx2.Response) -> list[bytes]:
    return [event for event in response.content.split(b"\n\n") if event]


BROKEN_STREAMS: dict[str, tuple[bytes, ...]] = {
    "in the middle of an event": (STREAM + chunk(EVENT % b"one") + chunk((EVENT % b"two")[:40]),),
    "in the middle of a chunk": (STREAM + chunk(EVENT % b"one") + chunk(EVENT % b"two")[:50],),
    "between two events": (STREAM + chunk(EVENT % b"one"),),
    "with a chunk that is none": (STREAM + chunk(EVENT % b"one") + b"zz\r\n",),
    "as HTTP wants, but without its last event": (STREAM + chunk(EVENT % b"one") + OVER,),
}


@pytest.mark.parametrize("parts", BROKEN_STREAMS.values(), ids=BROKEN_STREAMS.keys())
def test_a_stream_that_breaks_ends_with_an_error_and_without_done(parts: tuple[bytes, ...]) -> None:
    with gate(Scripted(sends(*parts, stays=False))) as found:
        *before, last = events(found.ask(stream=True))
        assert [event + b"\n\n" for event in before] == [EVENT % b"one"]
        error = json.loads(last.removeprefix(b"data: "))["error"]
        assert error["type"] == "server_error" and error["code"].startswith("upstream_")
        text = found.http.get("/metrics").text
        assert f'adreg_upstream_requests_total{{outcome="{error["code"]}",upstream=' in text


def test_a_stream_that_falls_silent_ends_with_an_error() -> None:
    def stops(client: socket.socket) -> bool:
        client.sendall(STREAM + chunk(EVENT % b"one"))
        return never(client)

    with gate(Scripted(stops), silent_seconds=0.3) as found:
        *_, last = events(found.ask(stream=True))
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_silent"


def test_an_error_that_the_upstream_tells_itself_is_passed_on_and_not_told_twice() -> None:
    error = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'
    with gate(Scripted(sends(STREAM, chunk(EVENT % b"one"), chunk(error) + OVER))) as found:
        assert found.ask(stream=True).content == EVENT % b"one" + error


@pytest.fixture
def odd() -> Iterator[bytes]:
    """A proper stream with everything that is allowed in one."""
    yield b": a comment\n\n" + EVENT % "王🙂".encode() + b"data: {}\r\n\r\nid: 1\nevent: x\ndata: {}\n\n" + DONE


def test_a_whole_stream_comes_through_unchanged_wherever_it_is_cut(odd: bytes) -> None:
    for size in (1, 7, 1000):
        parts = [chunk(odd[at : at + size]) for at in range(0, len(odd), size)]
        with gate(Scripted(sends(STREAM, *parts, OVER))) as found:
            answered = found.ask(stream=True)
            assert answered.content == odd
            assert answered.headers["content-type"] == "text/event-stream; charset=utf-8"


def test_events_are_passed_on_as_they_come() -> None:
    def slowly(client: socket.socket) -> bool:
        client.sendall(STREAM + chunk(EVENT % b"one"))
        time.sleep(0.5)
        client.sendall(chunk(DONE) + OVER)
        return True

    with (
        gate(Scripted(slowly)) as found,
        found.http.stream("POST", "/v1/completions", json={"model": "base", "prompt": "x", "stream": True}) as answered,
    ):
        came = [(time.monotonic(), piece) for piece in answered.iter_raw()]
    assert came[0][1] == EVENT % b"one"
    assert came[-1][0] - came[0][0] > 0.4
