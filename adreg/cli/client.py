"""One running server, asked over HTTP: plain questions, and answers that stream. Knows OpenAI's dialect, no model.

Built on http.client, because `adreg ps` has to be there before a larger library is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import quote, urlsplit

from adreg.errors import RemoteError

JsonObject = dict[str, Any]
GLANCE_SECONDS, ANSWER_SECONDS = 5.0, 600.0


@dataclass(frozen=True)
class Piece:
    """A piece of an answer. The first one may be empty; only the last one has a `reason` and counts `tokens`."""

    text: str
    adapter: str | None
    reason: str = ""
    tokens: int = 0


@dataclass(frozen=True)
class Client:
    """The server at `url`; `key` opens it where it needs one. Everything raises `RemoteError`, with the server's words."""

    url: str
    key: str | None = None

    def get(self, path: str) -> JsonObject:
        with self._asked("GET", path, None, GLANCE_SECONDS) as response:
            found: JsonObject = json.loads(response.read())
            return found

    def model(self, name: str) -> JsonObject:
        """What the server tells of the model called `name`."""
        return self.get(f"/v1/models/{quote(name, safe='/:@')}")

    def chat(self, body: Mapping[str, Any]) -> Iterator[Piece]:
        """The answer to a chat request, as it comes. Closing the iterator ends it on the server too."""
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        with self._asked("POST", "/v1/chat/completions", json.dumps(asked).encode(), ANSWER_SECONDS) as response:
            adapter = response.headers["x-adreg-adapter"]
            adapter = None if adapter == "none" else adapter
            reason = ""
            for chunk in self._events(response):
                for choice in chunk["choices"]:
                    reason = choice["finish_reason"] or reason
                    yield Piece(choice["delta"].get("content") or "", adapter)
                if chunk["usage"]:
                    yield Piece("", adapter, reason, chunk["usage"]["completion_tokens"])

    def _events(self, response: HTTPResponse) -> Iterator[JsonObject]:
        for line in response:
            data = line.removeprefix(b"data: ").strip()
            if data == b"[DONE]":
                return
            if data:
                chunk = json.loads(data)
                if "error" in chunk:
                    raise RemoteError(self.url, chunk["error"]["message"])
                yield chunk
        raise RemoteError(self.url, "ended in the middle of an answer")

    @contextmanager
    def _asked(self, method: str, path: str, body: bytes | None, seconds: float) -> Iterator[HTTPResponse]:
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=seconds)
        key = {"authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            connection.request(method, path, body, {"content-type": "application/json", **key})
            response = connection.getresponse()
            if response.status >= 400:
                raise RemoteError(self.url, _refusal(response))
            yield response
        except TimeoutError as error:
            raise RemoteError(self.url, f"has not answered for {seconds:.0f} s") from error
        except (OSError, HTTPException, ValueError) as error:
            raise RemoteError(self.url, f"does not answer: {error}") from error
        finally:
            connection.close()


def _refusal(response: HTTPResponse) -> str:
    """The server's own words, or else its status."""
    try:
        return str(json.loads(response.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status} {response.reason}"
