"""An Ollama server: files are sent by digest, then the model is made of them. Knows the HTTP API, not what a model is.

Source: ollama 0.33, server/routes.go (HeadBlobHandler, CreateBlobHandler, streamResponse) and server/create.go.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.errors import FormatError, RemoteError
from adreg.export.ollama.blobs import Blob
from adreg.formats.strictjson import JsonObject, parse_object
from adreg.progress import SILENT, Progress, Task
from adreg.registry.remotes.http.session import Answer, Broken, HttpSession, Patience, pieces_of, printable

if TYPE_CHECKING:
    import httpx2

PATIENCE = Patience(attempts=1, connect_seconds=5.0, silent_seconds=1800.0)
LINE_LIMIT = 1 << 20


class OllamaServer(HttpSession):
    """The server at a URL. Nothing is tried twice: it is most often on this machine."""

    def __init__(self, url: str, patience: Patience = PATIENCE) -> None:
        super().__init__(url.rstrip("/"), None, patience)

    def version(self) -> str | None:
        """The version of the server, such as `0.33.0`; None where nothing answers."""
        try:
            answer = self.once("GET", "/api/version")
        except Broken:
            return None
        return str(self.json(answer).get("version"))

    def has_model(self, name: str) -> bool:
        answer = self.ask("POST", "/api/show", json={"model": name})
        if answer.status not in (200, 404):
            raise self.refusal(answer)
        return answer.status == 200

    def send(self, blob: Blob, progress: Progress = SILENT) -> None:
        """Give the server the file, unless it has it. Raises `RemoteError`."""
        place = f"/api/blobs/{blob.digest}"
        held = self.ask("HEAD", place)
        if held.status == 200:
            return
        if held.status != 404:
            raise self.refusal(held)
        headers = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        with progress.task("sending", blob.size, "B") as task:
            answer = self.ask("POST", place, content=_counted(pieces_of(blob.path, 0, blob.size), task), headers=headers)
        if answer.status not in (200, 201):
            raise self.refusal(answer)

    def create(self, body: JsonObject, size: int, progress: Progress = SILENT) -> list[str]:
        """Make a model of files that were sent; what the server said it did. Raises `RemoteError` with its own words."""
        with progress.task("creating", size, "B") as task:
            return self.trying(lambda: self._create(body, task))

    def _create(self, body: JsonObject, task: Task) -> list[str]:
        said: list[str] = []
        done = 0
        options: dict[str, Any] = {"content": json.dumps(body).encode(), "headers": {"Content-Type": "application/json"}}
        with self.opened("POST", "/api/create", **options) as response:
            if response.status_code != 200:
                raise self.refusal(self.whole(response))
            for line in self._lines(response):
                if "error" in line:
                    raise RemoteError(self.url, printable(str(line["error"])))
                status, completed = printable(str(line.get("status"))), line.get("completed")
                said += [] if status in said[-1:] else [status]
                further = completed - done if isinstance(completed, int) else 0
                task.advance(further, status)
                done += further
        if said[-1:] != ["success"]:
            raise RemoteError(self.url, f"it stopped after {' '.join(said[-1:]) or 'nothing'!r}", "look into its log")
        return said

    def _lines(self, response: httpx2.Response) -> Iterator[JsonObject]:
        """The JSON objects of a streamed answer, one a line."""
        rest = b""
        for piece in response.iter_raw():
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > LINE_LIMIT:
                raise self.nonsense(f"a line of more than {LINE_LIMIT} bytes")
            yield from (self._object(line) for line in lines if line.strip())
        if rest.strip():
            yield self._object(rest)

    def _object(self, line: bytes) -> JsonObject:
        try:
            return parse_object(line, Path("answer"), "S-MAN-1")
        except FormatError as error:
            raise self.nonsense(error.why) from error

    def refusal(self, answer: Answer) -> RemoteError:
        try:
            said = parse_object(answer.body, Path("answer"), "S-MAN-1").get("error")
        except FormatError:
            said = None
        hint = "" if isinstance(said, str) else "is an Ollama server at that address? OLLAMA_HOST and --host say where"
        return RemoteError(self.url, printable(said) if isinstance(said, str) else f"it answers {answer.status}", hint)

    def nonsense(self, why: str) -> RemoteError:
        return RemoteError(self.url, f"its answer makes no sense: {printable(why)}", "is an Ollama server at that address?")


def _counted(pieces: Iterator[bytes], task: Task) -> Generator[bytes]:
    for piece in pieces:
        yield piece
        task.advance(len(piece))
