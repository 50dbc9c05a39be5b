"""Upstreams that do what a test wants, over real sockets, and a gateway in front of them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from adreg.serve.gateway.app import create_gateway
from adreg.serve.gateway.dialects import Dialect, NamesDialect
from adreg.serve.gateway.gateway import GatewayOptions
from adreg.serve.gateway.upstream import Fleet, Upstream
from adreg.serve.models.catalog import Catalog
from adreg.serve.server.server import running_server

TEXT = "/v1/completions"
EVENT = b'data: {"id":"1","choices":[{"index":0,"text":"%s","finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
Script = Callable[[socket.socket], bool]
"""Answers one request; whether the connection stays."""


def answer(body: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (status, kind, size, body)


def said(text: str) -> bytes:
    return json.dumps({"id": "1", "choices": [{"index": 0, "text": text, "finish_reason": "stop"}], "usage": USAGE}).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
OVER = b"0\r\n\r\n"


def sends(*parts: bytes, stays: bool = True) -> Script:
    """A script that sends `parts`, each by itself."""

    def script(client: socket.socket) -> bool:
        for part in parts:
            client.sendall(part)
        return stays

    return script


def never(client: socket.socket) -> bool:
    """A script that sends nothing until the other side hangs up."""
    client.settimeout(20)
    return bool(client.recv(1))


@dataclass
class Asked:
    """One request as it came: its first line, its headers, its body."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Scripted:
    """Lists `models`, says that it is well, and does `script` for everything else that it is asked."""

    script: Script
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "base", "parent": None, "root": "/srv/base"}])
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when somebody hangs up on it."""

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while request := read(client):
                if request.line.startswith("GET /health"):
                    client.sendall(answer(b"{}"))
                elif request.line.startswith("GET /v1/models"):
                    client.sendall(answer(json.dumps({"data": self.models}).encode()))
                else:
                    self.asked.append(request)
                    self.connections += 1
                    if not self.script(client):
                        return
        self.gone.set()


def read(client: socket.socket) -> Asked | None:
    """The next request, None where there is no other one."""
    text = b""
    while b"\r\n\r\n" not in text:
        piece = client.recv(65536)
        if not piece:
            return None
        text += piece
    head, _, body = text.partition(b"\r\n\r\n")
    line, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in rest)}
    while len(body) < int(headers.get("content-length", 0)):
        body += client.recv(65536)
    return Asked(line, headers, body)


@contextmanager
def listening(upstream: Scripted) -> Iterator[str]:
    """`upstream` at its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=upstream.serve, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@dataclass
class Gate:
    """A gateway that runs."""

    url: str
    http: httpx2.Client
    fleet: Fleet

    def ask(self, headers: dict[str, str] | None = None, **changes: Any) -> httpx2.Response:
        return self.http.post(TEXT, json={"model": "base", "prompt": "x", **changes}, headers=headers)

    def error(self, status: int, **changes: Any) -> str:
        """The code of the error that asking gives."""
        refused = self.ask(**changes)
        assert refused.status_code == status, refused.text
        return str(refused.json()["error"]["code"])


@contextmanager
def gate(
    *upstreams: Scripted | str,
    catalog: Catalog | None = None,
    dialect: Dialect = NamesDialect(),
    key: str | None = None,
    **options: Any,
) -> Iterator[Gate]:
    """A gateway in front of `upstreams`: scripted ones, and URLs of others."""
    with ExitStack() as stack:
        urls = [one if isinstance(one, str) else stack.enter_context(listening(one)) for one in upstreams]
        fleet = Fleet([Upstream(url, dialect, key) for url in urls])
        app = create_gateway(fleet, catalog, GatewayOptions(**{"look_seconds": 0.2, **options}))
        url = stack.enter_context(running_server(app))
        yield Gate(url, stack.enter_context(httpx2.Client(base_url=url, timeout=20)), fleet)
