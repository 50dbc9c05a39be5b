"""S3 for tests: moto behind a door that checks keys, lets one request in at a time, and can misbehave on request.

moto checks a condition and then stores, without a lock; S3 does both at once. The lock gives its clients what S3 gives.
"""

from __future__ import annotations

import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

KEY = "adreg-test"
Answer = Callable[..., Any]


@dataclass
class Faults:
    """What goes wrong: `ignore_conditions` for ever, the others for so many of the next requests that it fits."""

    ignore_conditions: bool = False
    lose_answers: int = 0
    slow_down: int = 0
    conflict: int = 0
    cut_at: int | None = None
    requests: list[str] = field(default_factory=list)


def refusal(code: str, status: str) -> tuple[str, bytes]:
    return status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


class Door:
    """A WSGI application in front of moto's."""

    def __init__(self, inner: Callable[..., Iterable[bytes]]) -> None:
        self.inner, self.lock, self.faults = inner, threading.Lock(), Faults()

    def __call__(self, environ: dict[str, Any], start: Answer) -> Iterable[bytes]:
        with self.lock:
            refused = self._refused(environ)
            if refused:
                start(refused[0], [("Content-Type", "application/xml"), ("Content-Length", str(len(refused[1])))])
                return [refused[1]]
            if self.faults.ignore_conditions:
                environ.pop("HTTP_IF_NONE_MATCH", None)
            return self._answer(environ, start)

    def _refused(self, environ: dict[str, Any]) -> tuple[str, bytes] | None:
        method, faults = environ["REQUEST_METHOD"], self.faults
        faults.requests.append(f"{method} {environ['PATH_INFO']}?{environ['QUERY_STRING']} {environ.get('HTTP_RANGE', '')}")
        if f"Credential={KEY}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            return refusal("InvalidAccessKeyId", "403 Forbidden")
        if faults.slow_down:
            faults.slow_down -= 1
            return refusal("SlowDown", "503 Slow Down")
        if faults.conflict and method == "PUT":
            faults.conflict -= 1
            return refusal("ConditionalRequestConflict", "409 Conflict")
        return None

    def _answer(self, environ: dict[str, Any], start: Answer) -> Iterable[bytes]:
        body = b"".join(self.inner(environ, start))
        if self.faults.lose_answers and environ["REQUEST_METHOD"] == "PUT":
            self.faults.lose_answers -= 1
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        if self.faults.cut_at is not None and environ["REQUEST_METHOD"] == "GET" and len(body) > self.faults.cut_at:
            return [body[: self.faults.cut_at]]
        return [body]


@dataclass(frozen=True)
class S3:
    endpoint: str
    door: Door

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }  # fmt: skip

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """A raw request, past every client: its status and body."""
        signed = {"Authorization": f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/s3/aws4_request", **headers}
        signed.setdefault("Content-Type", "application/octet-stream")
        asked = urllib.request.Request(f"{self.endpoint}/{path}", body or None, signed, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@contextmanager
def serve_s3() -> Iterator[S3]:
    """An S3 endpoint on a free port of this machine."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *words: Any) -> None:
            """Says nothing."""

    door = Door(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield S3(f"http://127.0.0.1:{server.server_port}", door)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
