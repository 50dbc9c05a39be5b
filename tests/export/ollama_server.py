"""A small Ollama on a local port: blobs by digest, and models made of GGUF files, as ollama 0.33 does it.

After server/routes.go (HeadBlobHandler, CreateBlobHandler, ShowHandler, streamResponse), server/create.go (CreateHandler,
convertModelFromFiles, createModel) and manifest/*.go. Not here: `llama-quantize COPY`, so that GGUF blobs stay as they
came, and distances between templates, so that only a Jinja text in `known` is recognised. `faults` bends single answers.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gguf import GGUFReader

IMAGE = "application/vnd.ollama.image."
CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DIGEST = re.compile("^sha256[:-][0-9a-fA-F]{64}$")


class Refused(Exception):
    """An error that is answered with `status`, or as a line once lines were sent."""

    def __init__(self, why: str, status: int = 500) -> None:
        self.status = status
        super().__init__(why)


@dataclass
class Faults:
    """What the server does wrong. `cut`: after so many lines of a creation the answer ends."""

    error: str | None = None
    cut: int | None = None
    redirect: str | None = None
    garbage: bytes | None = None


@dataclass
class Ollama:
    """The state of the server; its store lies in `store`. `known` maps Jinja texts to a name, a Go template and stops."""

    store: Path
    version: str = "0.33.0"
    known: dict[str, tuple[str, str, list[str]]] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    asked: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def blob(self, digest: str) -> Path:
        if not DIGEST.match(digest):
            raise Refused("invalid digest format", 400)
        (self.store / "blobs").mkdir(parents=True, exist_ok=True)
        return self.store / "blobs" / digest.replace(":", "-")

    def layer(self, content: bytes, kind: str, statuses: list[str]) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        there = self.blob(digest).exists()
        if not there:
            self.blob(digest).write_bytes(content)
        statuses.append(f"{'using existing' if there else 'creating new'} layer {digest}")
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def manifest(self, name: str) -> Path:
        """types/model/name.go: ParseName, IsValid, Filepath."""
        tag = "latest"
        if name.rfind(":") > name.rfind("/"):
            name, _, tag = name.rpartition(":")
        parts = [*["registry.ollama.ai", "library"][: max(0, 2 - name.count("/"))], *name.split("/"), tag]
        if len(parts) != 4 or not all(map(valid_part, ("host", "namespace", "model", "tag"), parts)):
            raise Refused("invalid model name", 400)
        return self.store.joinpath("manifests", *parts)

    def read(self, name: str) -> dict[str, list[Any]]:
        """The blobs of a model by kind, those of JSON parsed."""
        manifest = json.loads(self.manifest(name).read_text())
        found: dict[str, list[Any]] = {}
        for layer in [*manifest["layers"], manifest["config"]]:
            content = self.blob(layer["digest"]).read_bytes()
            assert len(content) == layer["size"] and layer["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
            kind = layer["mediaType"].removeprefix(IMAGE)
            found.setdefault(kind, []).append(json.loads(content) if kind in ("params", "messages", CONFIG) else content)
        return found


def valid_part(kind: str, part: str) -> bool:
    if not 1 <= len(part) <= (350 if kind == "host" else 80) or not part.isascii():
        return False
    if not (part[0].isalnum() or part[0] == "_"):
        return False
    others = "_-" + ("" if kind == "namespace" else ".") + (":" if kind == "host" else "")
    return all(character.isalnum() or character in others for character in part)


@contextmanager
def running_ollama(store: Path) -> Iterator[Ollama]:
    """An Ollama over the store in a folder, on a free loopback port."""
    ollama = Ollama(store)

    class Handler(_Handler):
        state = ollama

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    ollama.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield ollama
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Ollama
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        self.state.asked.append(f"{self.command} {self.path}")
        self.streaming = False
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            self._answer(body)
        except ConnectionAbortedError:
            self.close_connection = True
        except Refused as error:
            if self.streaming:
                self._line({"error": str(error)})
                self._chunk(b"")
            else:
                self._json({"error": str(error)}, error.status)

    do_GET = do_HEAD = do_POST = _handle

    def _answer(self, body: bytes) -> None:
        place = self.path.removeprefix("/api/blobs/")
        if self.state.faults.redirect:
            self._json({}, 307, Location=self.state.faults.redirect)
        elif (self.command, self.path) == ("GET", "/api/version"):
            self._json({"version": self.state.version})
        elif (self.command, self.path) == ("POST", "/api/show"):
            name = json.loads(body)["model"]
            if not self.state.manifest(name).exists():
                raise Refused(f"model '{name}' not found", 404)
            self._json({"details": {}})
        elif (self.command, self.path) == ("POST", "/api/create"):
            self._create(json.loads(body))
        elif place != self.path and self.command == "HEAD":
            self._json({}, 200 if self.state.blob(place).exists() else 404)
        elif place != self.path and self.command == "POST":
            self._keep(place, body)
        else:
            self._json({"error": "404 page not found"}, 404)

    def _keep(self, digest: str, body: bytes) -> None:
        if self.state.blob(digest).exists():
            self._json({}, 200)
            return
        kept = self.state.layer(body, "", [])["digest"]
        if kept != digest:
            raise Refused(f'digest mismatch, expected "{digest}", got "{kept}"', 400)
        self._json({}, 201)

    def _create(self, asked: dict[str, Any]) -> None:
        state = self.state
        state.requests.append(asked)
        for name in asked.get("files", {}):
            if name.startswith("/") or ".." in name.split("/"):
                raise Refused("file path must be relative", 400)
        place = state.manifest(asked["model"])
        if not asked.get("files"):
            raise Refused("neither 'from' or 'files' was specified", 400)
        if len(asked.get("adapters", {})) > 1:
            raise Refused("only one adapter is currently supported", 400)
        statuses: list[str] = []
        layers, config = self._gguf_layers(asked, statuses)
        layers += self._text_layers(asked, layers, statuses)
        for status in statuses:
            self._status(status)
        self._status("writing manifest")
        configuration = state.layer(json.dumps(config).encode(), CONFIG, [])
        place.parent.mkdir(parents=True, exist_ok=True)
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": configuration, "layers": layers}
        place.write_text(json.dumps(manifest) + "\n")
        self._status("success")
        self._chunk(b"")

    def _gguf_layers(self, asked: dict[str, Any], statuses: list[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The layers of the GGUF files, and of a template that is recognised in one."""
        layers: list[dict[str, Any]] = []
        config: dict[str, Any] = {"model_format": "gguf", "model_families": [], "architecture": "amd64", "os": "linux"}
        for name, digest in [*asked["files"].items(), *asked.get("adapters", {}).items()]:
            self._status("parsing GGUF")
            path = self.state.blob(digest)
            if not path.exists():
                raise Refused(f"open {path}: no such file or directory")
            if path.read_bytes()[:4] != b"GGUF":
                raise Refused("supplied file was not in GGUF format", 400)
            fields = GGUFReader(path).fields
            said = {key: fields[key].contents() for key in fields if key.startswith(("general.", "tokenizer.chat"))}
            kind = "adapter" if said.get("general.type") == "adapter" else "model"
            layers.append({"mediaType": IMAGE + kind, "digest": digest, "size": path.stat().st_size, "from": name})
            if kind == "model":
                for done in (1, 2):
                    self._status("validating GGUF model", total=path.stat().st_size, completed=path.stat().st_size * done // 2)
                self._status("verifying conversion")
                config["model_family"] = said["general.architecture"]
                config["model_families"].append(said["general.architecture"])
            if template := self.state.known.get(said.get("tokenizer.chat_template", "")):
                layers.append({**self.state.layer(template[1].encode(), f"{IMAGE}template", []), "status": template[0]})
                layers.append(self.state.layer(json.dumps({"stop": template[2]}).encode(), f"{IMAGE}params", []))
        return layers, config

    def _text_layers(self, asked: dict[str, Any], layers: list[dict[str, Any]], statuses: list[str]) -> list[dict[str, Any]]:
        state, found = self.state, []
        if asked.get("template"):
            layers[:] = [layer for layer in layers if layer["mediaType"] != f"{IMAGE}template"]
        detected = [layer.pop("status") for layer in layers if "status" in layer]
        statuses += [f"using autodetected template {name}" for name in detected]
        for kind in ("template", "system"):
            found += [state.layer(asked[kind].encode(), IMAGE + kind, statuses)] if asked.get(kind) else []
        found += [state.layer(text.encode(), f"{IMAGE}license", statuses) for text in asked.get("license", [])]
        there = [layer for layer in layers if layer["mediaType"] == f"{IMAGE}params"]
        values = {key: value for layer in there for key, value in json.loads(state.blob(layer["digest"]).read_text()).items()}
        if values := {**values, **asked.get("parameters", {})}:
            layers[:] = [layer for layer in layers if layer not in there]
            found.append(state.layer(json.dumps(values).encode(), f"{IMAGE}params", statuses))
        if asked.get("messages"):
            found.append(state.layer(json.dumps(asked["messages"]).encode(), f"{IMAGE}messages", statuses))
        return found

    def _status(self, status: str, **numbers: int) -> None:
        self._line({"status": status, **({"digest": "0" * 19} if numbers else {}), **numbers})

    def _line(self, line: dict[str, Any]) -> None:
        faults = self.state.faults
        if not self.streaming:
            self.streaming, self.sent = True, 0
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
        if faults.cut == self.sent:
            self._chunk(b"")
            raise ConnectionAbortedError
        if faults.error and self.sent == 1:
            why, faults.error = faults.error, None
            raise Refused(why)
        self.sent += 1
        self._chunk(faults.garbage or json.dumps(line).encode() + b"\n")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""
