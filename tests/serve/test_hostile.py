"""Clients that are slow, broken or many: they end, nobody else notices, and everything they held is given back."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial

import httpx2
import pytest

from adreg.serve.api.app import create_app
from adreg.serve.engine.engine import Engine
from adreg.serve.server.connections import ClientLimits
from adreg.serve.server.server import running_server
from tests.serve.conftest import World
from tests.serve.hostile import MEGABYTE, completion, connected, given_back, head, heard, held, no_more, trickled

LATE = b"HTTP/1.1 408 Request Timeout\r\n"
HURRY = ClientLimits(connections=40, idle=1, head=0.5, body=0.5, reading=0.5)
ENDLESS = {"max_tokens": 30_000, "stream": True}


@pytest.fixture(scope="module")
def engine(llama: World) -> Engine:
    return llama.engine(executor="auto", max_running=4, max_waiting=600)


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    """A server without much limits."""
    with running_server(create_app(engine), limits=HURRY) as url:
        yield url


@pytest.fixture
def unharmed(engine: Engine, url: str) -> Iterator[None]:
    """Whatever a test does: the next client is served, with the same answer, and nothing is held for the last one."""
    answer = choice(url)
    before = held(engine)
    yield
    after = given_back(engine, before)
    assert no_more(after, before), (before, after)
    assert after.megabytes < before.megabytes + 24
    assert choice(url) == answer


def choice(url: str) -> str:
    body = {"model": "base", "prompt": "light", "temperature": 0, "max_tokens": 8}
    with httpx2.Client(timeout=60) as client:
        response = client.post(f"{url}/v1/completions", json=body, headers={"connection": "close"})
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


@pytest.mark.usefixtures("unharmed")
def test_clients_that_trickle_their_heads_are_sent_away_while_others_are_served(url: str) -> None:
    began = time.monotonic()

    def slow(_: int) -> bytes:
        with connected(url) as client:
            return trickled(client, completion())

    with ThreadPoolExecutor(20) as threads:
        sent_away = threads.map(slow, range(20))
        assert [choice(url) for _ in range(3)] == [choice(url)] * 3
        assert all(answer.startswith(LATE) for answer in sent_away)
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("beginning", [b"", b"GET /hea", head(200), completion()[:-9]], ids=["silent", "head", "body", "end"])
def test_a_client_that_stops_in_the_middle_is_sent_away(url: str, beginning: bytes) -> None:
    with connected(url) as client:
        client.sendall(beginning)
        assert heard(client).startswith(LATE)


@pytest.mark.usefixtures("unharmed")
def test_a_client_that_trickles_its_body_is_sent_away(url: str) -> None:
    request = completion()
    with connected(url) as client:
        client.sendall(request[:-100])
        assert trickled(client, request[-100:]).startswith(LATE)


@pytest.mark.usefixtures("unharmed")
def test_a_body_without_an_end_is_refused_and_not_read_for_ever(url: str) -> None:
    with connected(url) as client, suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(head(1 << 40))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            client.sendall(b" " * 65536)
        pytest.fail("it was read for ten seconds")


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_above_the_limit_is_a_413(url: str, declared: bool) -> None:
    length = 64 * MEGABYTE
    with connected(url) as client:
        if declared:
            client.sendall(head(length))
        else:
            client.sendall(head(0).replace(b"content-length: 0", b"transfer-encoding: chunked"))
            for _ in range(17):
                client.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.usefixtures("unharmed")
def test_a_client_that_stops_reading_is_cut_off(url: str) -> None:
    with connected(url, receive_buffer=4096) as client:
        questions = b"GET /%s HTTP/1.1\r\nhost: localhost\r\n\r\n" % (b"x" * 30_000)  # the answer repeats it
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:  # until every buffer on the way is full of answers
                client.sendall(questions)


@pytest.mark.usefixtures("unharmed")
def test_a_half_closed_connection_counts_as_left(engine: Engine, url: str) -> None:
    with connected(url) as client:
        client.sendall(completion(**ENDLESS))
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        client.shutdown(socket.SHUT_WR)
        heard(client)
        assert given_back(engine, held(engine), seconds=5).requests == (0, 0, 0)


@pytest.mark.usefixtures("unharmed")
def test_more_connections_than_the_cap_are_told_to_come_back(url: str) -> None:
    with ExitStack() as clients:
        crowd = [clients.enter_context(connected(url)) for _ in range(HURRY.connections + 5)]
        answers = [heard(client) for client in crowd]
    turned_away = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503 ")]
    assert 5 <= len(turned_away) <= 6  # `unharmed`'s own connection may just be leaving
    assert all(b"retry-after: 1\r\n" in answer for answer in turned_away)


@pytest.mark.usefixtures("unharmed")
def test_noise_is_refused_and_never_an_error_of_the_server(url: str) -> None:
    chance = random.Random(6)
    request = completion()
    for round_ in range(200):
        noise = bytearray(request)
        for _ in range(chance.randrange(1, 30)):
            noise[chance.randrange(len(noise))] = chance.randrange(256)
        with connected(url) as client:
            client.sendall(noise if round_ % 2 else chance.randbytes(chance.randrange(1, 4000)))
            client.shutdown(socket.SHUT_WR)
            assert not heard(client).startswith(b"HTTP/1.1 5"), bytes(noise)


def cancel_one(url: str, seed: int) -> None:
    """A client that leaves at some moment: within its request, before the answer, after the head, among the tokens."""
    chance = random.Random(seed)
    request = completion(**ENDLESS, model=chance.choice(["base", "all", "ns/qv:prod", "ends"]))
    with connected(url) as client, suppress(ConnectionResetError):
        client.sendall(request[: chance.randrange(1, len(request))] if seed % 4 == 0 else request)
        for _ in range(seed % 4 - 1):
            client.recv(1 + chance.randrange(2000))
        if chance.random() < 0.3:  # no farewell: a reset
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.mark.parametrize(
    "count", [200, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])], ids="{}".format
)
def test_cancelled_requests_give_everything_back(llama: World, count: int) -> None:
    engine = llama.engine(executor="auto", max_running=4, max_waiting=60)
    with running_server(create_app(engine)) as url, ThreadPoolExecutor(16) as threads:
        answer = choice(url)
        list(threads.map(partial(cancel_one, url), range(100)))
        before = given_back(engine, held(engine))
        list(threads.map(partial(cancel_one, url), range(100, 100 + count)))
        after = given_back(engine, before, 48, seconds=60)  # pytest keeps what was logged
        print(f"{count} cancelled requests: {before} before, {after} after")
        assert no_more(after, before)
        assert after.megabytes < before.megabytes + 48
        assert choice(url) == answer


def test_five_hundred_connections_at_once_are_all_answered(llama: World) -> None:
    with (
        running_server(create_app(llama.engine(executor="auto", max_running=8, max_waiting=600))) as url,
        ExitStack() as clients,
    ):
        wanted = choice(url)
        crowd = [clients.enter_context(connected(url)) for _ in range(500)]
        for client in crowd:
            client.sendall(completion(max_tokens=8).replace(b"host:", b"connection: close\r\nhost:"))
        answers = [heard(client) for client in crowd]
    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}
    assert sum(wanted.encode() in answer for answer in answers) == 500
