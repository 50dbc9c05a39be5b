"""Clients that nobody wishes for, over bare sockets, and what a server holds: to see that it holds no more afterwards."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adreg.serve.engine.engine import Engine

TEXT = "/v1/completions"
MEGABYTE = 1 << 20


def completion(**changes: Any) -> bytes:
    """A request for a completion, as it goes over the wire."""
    body = json.dumps({"model": "base", "prompt": "light", "temperature": 0, "max_tokens": 3, **changes}).encode()
    return head(len(body)) + body


def head(length: int, path: str = TEXT) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", f"content-length: {length}")
    return "\r\n".join((*lines, "", "")).encode()


@contextmanager
def connected(url: str, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as client:
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(30)
        client.connect((host, int(port)))
        yield client


def heard(client: socket.socket) -> bytes:
    """Everything that comes until the server closes the connection."""
    pieces = []
    with suppress(ConnectionResetError):
        while piece := client.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def trickled(client: socket.socket, data: bytes, pause: float = 0.05) -> bytes:
    """Send a byte at a time until the server has had enough; what it says to that."""
    with suppress(BrokenPipeError, ConnectionResetError):
        for byte in data:
            client.sendall(bytes([byte]))
            time.sleep(pause)
    return heard(client)


@dataclass(frozen=True)
class Held:
    """What this process holds: of requests (those that run, those that wait, bytes of keys and values), and of the system."""

    requests: tuple[int, int, int]
    threads: int
    descriptors: int
    megabytes: float


def held(engine: Engine) -> Held:
    stats = engine.stats()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    megabytes = pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    return Held((stats.running, stats.waiting, stats.kv_used), _threads(), descriptors, megabytes)


def _threads() -> int:
    """Without the event loop's own pool, which grows to its bound when it is first busy."""
    return sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())


def given_back(engine: Engine, before: Held, megabytes: float = 24, seconds: float = 10) -> Held:
    """What is held once no request is under way and all else as it was `before`, or after some seconds; memory may grow by
    `megabytes`."""
    deadline = time.monotonic() + seconds
    while True:
        now = held(engine)
        if time.monotonic() > deadline or (no_more(now, before) and now.megabytes < before.megabytes + megabytes):
            return now
        time.sleep(0.05)


def no_more(now: Held, before: Held) -> bool:
    """Whether nothing is left of requests, and no thread or descriptor more than `before`."""
    return now.requests == (0, 0, 0) and now.threads <= before.threads and now.descriptors <= before.descriptors
