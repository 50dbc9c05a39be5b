"""The port: who may reach it, what happens when it is taken, and how signals end it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx2
import pytest

from adreg.errors import ConflictError, UsageError
from adreg.serve.api.app import create_app
from adreg.serve.server.exposure import check_exposure
from adreg.serve.server.server import listen, serve_forever
from tests.serve.conftest import World

LONG = {"model": "base", "prompt": "light", "temperature": 0, "stream": True}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_an_exposed_host_needs_a_key(host: str) -> None:
    check_exposure(host, has_key=True)
    with pytest.raises(UsageError, match="other machines"):
        check_exposure(host, has_key=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    check_exposure(host, has_key=False)


def test_a_taken_port_and_a_wrong_host_are_said_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConflictError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            listen("127.0.0.1", port)
    with pytest.raises(UsageError, match="no address of this machine"):
        listen("no-such-host.invalid", 0)


@pytest.fixture
def terminable() -> Iterator[None]:
    """SIGTERM raises `KeyboardInterrupt` here, as SIGINT does, where it would end the tests."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


def served_until_interrupted(world: World, visit: Callable[[str], None]) -> float:
    """Serve `world` while another thread visits it; the seconds that it took to end after the visit."""
    engine, left = world.engine(executor="auto"), 0.0

    def visitor(url: str) -> None:
        nonlocal left
        visit(url)
        left = time.monotonic()

    visitors: list[threading.Thread] = []

    def ready(url: str) -> None:
        visitors.append(threading.Thread(target=visitor, args=(url,)))
        visitors[0].start()

    with pytest.raises(KeyboardInterrupt):
        serve_forever(create_app(engine), port=0, ready=ready, grace=60)
    ended = time.monotonic()
    visitors[0].join()
    return ended - left


def refused(url: str) -> bool:
    """Whether within five seconds the port takes no connection any more."""
    deadline = time.monotonic() + 5
    with suppress(httpx2.ConnectError):
        while time.monotonic() < deadline:
            httpx2.get(f"{url}/health")
            time.sleep(0.02)
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_serving_after_the_answers_under_way(llama: World, terminable: None, number: int) -> None:
    streamed = b""

    def visit(url: str) -> None:
        nonlocal streamed
        with httpx2.stream("POST", f"{url}/v1/completions", json={**LONG, "max_tokens": 300}, timeout=60) as response:
            for chunk in response.iter_raw():
                if not streamed:
                    os.kill(os.getpid(), number)
                    assert refused(url)
                streamed += chunk

    served_until_interrupted(llama, visit)
    assert streamed.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_what_still_runs_at_once(llama: World, terminable: None, number: int) -> None:
    streamed = b""

    def visit(url: str) -> None:
        nonlocal streamed
        endless = {**LONG, "max_tokens": 30_000}
        with (
            suppress(httpx2.RemoteProtocolError, httpx2.ReadError),
            httpx2.stream("POST", f"{url}/v1/completions", json=endless, timeout=60) as response,
        ):
            for chunk in response.iter_raw():
                if not streamed:
                    os.kill(os.getpid(), number)
                    assert refused(url)
                    os.kill(os.getpid(), number)
                streamed += chunk

    assert served_until_interrupted(llama, visit) < 3
    assert streamed and b"[DONE]" not in streamed
