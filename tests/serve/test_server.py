"""The port: who may reach it, what happens when it is taken, and how a signal ends it."""

from __future__ import annotations

import os
import signal
import socket
import threading

import httpx2
import pytest

from adreg.errors import ConflictError, UsageError
from adreg.serve.api.app import create_app
from adreg.serve.exposure import check_exposure
from adreg.serve.server import listen, serve_forever
from tests.serve.conftest import World


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


def test_an_interrupt_ends_serving_and_the_engine(llama: World) -> None:
    engine = llama.engine()
    seen: list[int] = []

    def visit_and_interrupt(url: str) -> None:
        seen.append(httpx2.get(f"{url}/v1/models").status_code)
        os.kill(os.getpid(), signal.SIGINT)

    def ready(url: str) -> None:
        threading.Thread(target=visit_and_interrupt, args=(url,)).start()

    with pytest.raises(KeyboardInterrupt):
        serve_forever(create_app(engine), port=0, ready=ready)
    assert seen == [200]
    assert not engine.alive
