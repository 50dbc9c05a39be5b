"""A small hub on a local port: the endpoints that huggingface_hub's client uses to read and to commit, without xet.

Large files really go through LFS (their SHA-256 is checked on upload), small ones are git blobs, and a commit whose
`parentCommit` is not the head is refused with 412. `faults` bends single answers, as a broken or hostile hub would.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_writer"
READER = "hf_reader"
LFS_FROM = 10_000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Faults:
    """What the hub does wrong. `bytes`: served instead of a file's own; `cut`: bytes after which the line breaks."""

    bytes: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    listing: list[dict[str, Any]] = field(default_factory=list)
    status: int | None = None
    sha: str | None = None
    ignored: set[str] = field(default_factory=set)
    before_commit: Callable[[], None] | None = None
    before_file: Callable[[], None] | None = None


@dataclass
class Hub:
    """Repositories: name → commits, each id → files; and the heads of their branches."""

    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    heads: dict[str, dict[str, str]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Make `files` the whole content of a new commit at the head of `branch`."""
        oid = hashlib.sha1(uuid.uuid4().bytes).hexdigest()
        self.commits.setdefault(repo, {})[oid] = dict(files)
        self.heads.setdefault(repo, {})[branch] = oid
        return oid

    def head(self, repo: str) -> dict[str, bytes]:
        return self.commits[repo][self.heads[repo]["main"]]

    def resolve(self, repo: str, revision: str) -> str | None:
        return revision if revision in self.commits[repo] else self.heads[repo].get(revision)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub without repositories, on a free loopback port."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        for pattern, answer in (
            (r"/api/models/(.+?)/revision/([^/]+)", self._info),
            (r"/api/models/(.+?)/tree/([^/]+)", self._tree),
            (r"/api/models/(.+)", self._info),
            (r"/(.+?)/resolve/([^/]+)/(.+)", self._file),
        ):
            found = re.fullmatch(pattern, path)
            if found:
                self._known(answer, *map(unquote, found.groups()))
                return
        self._json({"error": "no such page"}, 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            known = self.headers.get("Authorization") == f"Bearer {READER}"
            self._json({"error": "you may not write"}, 403 if known else 401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/lfs/verify":
            uploaded = self.state.objects.get(json.loads(body)["oid"])
            self._json({}, 200 if uploaded is not None and len(uploaded) == json.loads(body)["size"] else 404)
        elif found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            self._json({"transfer": "basic", "objects": [self._action(each) for each in json.loads(body)["objects"]]})
        elif found := re.fullmatch(r"/api/models/(.+)/(preupload|commit)/([^/]+)", path):
            answer = self._preupload if found[2] == "preupload" else self._commit
            self._known(lambda repo, branch: answer(repo, branch, body), found[1], unquote(found[3]))
        else:
            self._json({"error": "no such page"}, 404)

    def do_PUT(self) -> None:
        oid = self.path.rpartition("/")[2]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if sha256(body) != oid:
            self._json({"error": "checksum"}, 400)
            return
        self.state.objects[oid] = body
        self._json({})

    def _known(self, answer: Callable[..., None], repo: str, *rest: str) -> None:
        self.state.asked.append(f"{self.command} {unquote(self.path)}")
        reader = self.headers.get("Authorization") in (f"Bearer {TOKEN}", f"Bearer {READER}")
        if self.state.faults.status:
            self._json({"error": "as you wish"}, self.state.faults.status)
        elif repo not in self.state.commits or (repo in self.state.private and not reader):
            self._json({"error": "Repository not found"}, 404 if reader else 401, {"X-Error-Code": "RepoNotFound"})
        elif rest and self.state.resolve(repo, rest[0]) is None:
            self._json({"error": "Invalid rev"}, 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            answer(repo, *rest)

    def _info(self, repo: str, revision: str = "main") -> None:
        commit = self.state.resolve(repo, revision) or ""
        files = self.state.commits[repo][commit]
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = [_sibling(name, content) if blobs else {"rfilename": name} for name, content in files.items()]
        body = {"id": repo, "sha": self.state.faults.sha or commit, "private": repo in self.state.private}
        self._json({**body, "siblings": siblings + self.state.faults.listing})

    def _tree(self, repo: str, revision: str) -> None:
        files = self.state.commits[repo][self.state.resolve(repo, revision) or ""]
        self._json([{"type": "file", "path": n, "size": len(c), "oid": git_sha1(c)} for n, c in files.items()])

    def _file(self, repo: str, revision: str, name: str) -> None:
        if self.state.faults.before_file:
            self.state.faults.before_file()
        commit = self.state.resolve(repo, revision) or ""
        content = self.state.faults.bytes.get(name, self.state.commits[repo][commit].get(name))
        if content is None:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:].rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{git_sha1(content)}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "GET":
            cut = self.state.faults.cut.get(name)
            self.wfile.write(content[start:] if cut is None else content[start : start + cut])
            self.close_connection = True

    def _validate(self, card: str) -> None:
        front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
        data = yaml.safe_load(front[1]) if front else None
        bad = [] if isinstance(data, dict) else [{"message": "no metadata"}]
        self._json({"errors": bad, "warnings": []}, 400 if bad else 200)

    def _create(self, asked: dict[str, Any]) -> None:
        repo = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
        if repo in self.state.commits:
            self._json({"error": "You already created this model repo"}, 409)
            return
        if asked.get("visibility") == "private" or asked.get("private"):
            self.state.private.add(repo)
        self.state.commit(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": f"{self.state.url}/{repo}"})

    def _action(self, each: dict[str, Any]) -> dict[str, Any]:
        if each["oid"] in self.state.objects:
            return each
        actions = {
            "upload": {"href": f"{self.state.url}/lfs/{each['oid']}"},
            "verify": {"href": f"{self.state.url}/lfs/verify"},
        }
        return {**each, "actions": actions}

    def _preupload(self, repo: str, branch: str, body: bytes) -> None:
        files = self.state.head(repo)
        answers = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["size"] >= LFS_FROM else "regular",
                "shouldIgnore": each["path"] in self.state.faults.ignored,
                "oid": _oid(files[each["path"]]) if each["path"] in files else None,
            }
            for each in json.loads(body)["files"]
        ]
        self._json({"files": answers})

    def _commit(self, repo: str, branch: str, body: bytes) -> None:
        if self.state.faults.before_commit:
            self.state.faults.before_commit()
        lines = [json.loads(line) for line in body.splitlines()]
        if lines[0]["value"].get("parentCommit", self.state.heads[repo][branch]) != self.state.heads[repo][branch]:
            self._json({"error": "A commit has happened since. Please refresh and try again."}, 412)
            return
        files = dict(self.state.commits[repo][self.state.heads[repo][branch]])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
            else:
                files.pop(value["path"])
        commit = self.state.commit(repo, files, branch)
        self._json({"commitUrl": f"{self.state.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _json(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def _oid(content: bytes) -> str:
    return sha256(content) if len(content) >= LFS_FROM else git_sha1(content)


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    listed: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
    if len(content) >= LFS_FROM:
        listed["lfs"] = {"size": len(content), "sha256": sha256(content), "pointerSize": 130}
    return listed
