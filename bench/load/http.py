"""The least of HTTP that streams: bytes with the time they came, and what they say once the clock has stopped.

Nothing is parsed while an engine is measured, so that the client takes as little of its processor as can be.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

Arrivals = list[tuple[float, bytes]]
ATTEMPTS = 3


async def post(port: int, path: str, body: bytes) -> Arrivals:
    """Send `body` to this machine and take in the answer. Tries again where the server drops the connection unanswered."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    for _ in range(ATTEMPTS):
        arrivals = await _exchange(port, head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        if arrivals:
            return arrivals
    raise ConnectionError(f"no answer from port {port} in {ATTEMPTS} attempts")


async def _exchange(port: int, message: bytes) -> Arrivals:
    arrivals: Arrivals = []
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(message)
            while data := await reader.read(1 << 16):
                arrivals.append((time.perf_counter(), data))
        finally:
            writer.close()
    except ConnectionError:
        if arrivals:
            raise
    return arrivals


def events(arrivals: Arrivals) -> Iterator[tuple[float, dict[str, Any]]]:
    """The server-sent events of an answer and when each was complete. Raises `ConnectionError` for any other answer."""
    head, body = _split(arrivals)
    if b" 200 " not in head.split(b"\r\n", 1)[0] + b" ":
        raise ConnectionError(b"".join([head, b"\n", *(data for _, data in body)]).decode(errors="replace")[:2000])
    pieces = _dechunked(body) if b"transfer-encoding: chunked" in head.lower() else body
    left = b""
    for at, piece in pieces:
        *whole, left = (left + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in whole:
            if event.startswith(b"data:") and (data := event[5:].strip()) != b"[DONE]":
                yield at, json.loads(data)


def _split(arrivals: Arrivals) -> tuple[bytes, Arrivals]:
    head = b""
    for number, (at, data) in enumerate(arrivals):
        head += data
        if b"\r\n\r\n" in head:
            head, rest = head.split(b"\r\n\r\n", 1)
            return head, [(at, rest), *arrivals[number + 1 :]]
    raise ConnectionError("the answer ended before its body")


def _dechunked(arrivals: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """RFC 9112, section 7.1, without trailers."""
    left = b""
    for at, data in arrivals:
        left += data
        while b"\r\n" in left:
            size, rest = left.split(b"\r\n", 1)
            length = int(size.split(b";")[0], 16)
            if len(rest) < length + 2:
                break
            left = rest[length + 2 :]
            yield at, rest[:length]
