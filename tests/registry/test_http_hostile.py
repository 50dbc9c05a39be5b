"""Hostile clients over raw sockets, hostile servers, and whatever schemathesis thinks of."""

import json
import os
import re
import socket
import socketserver
import sys
import threading
from contextlib import contextmanager, suppress
from urllib.parse import unquote

import httpx2
import hypothesis
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from adreg.errors import AdregError, IntegrityError, RemoteError
from adreg.registry.remotes.http.remote import HttpRemote
from adreg.registry.remotes.http.session import Patience
from adreg.registry.remotes.transfer import receive
from tests.registry.http_tools import files_under, make_adapter, push, remote, served

EXAMPLES = int(os.environ.get("ADREG_HTTP_EXAMPLES", "40"))
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    "os.rename": 2, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.truncate": 1,
    "os.chmod": 1, "os.chown": 1, "os.utime": 1, "sqlite3.connect": 1, "shutil.copyfile": 2, "shutil.move": 2,
}  # fmt: skip
_watch: dict[str, list[str] | None] = {"changed": None}


def _hook(event, args):
    changed = _watch["changed"]
    if changed is None:
        return
    if event == "open" and isinstance(args[0], str | bytes | os.PathLike) and (args[2] or 0) & WRITING:
        changed.append(os.fsdecode(args[0]))
    elif event in CHANGES:
        changed.extend(os.fsdecode(path) for path in args[: CHANGES[event]] if isinstance(path, str | bytes | os.PathLike))


sys.addaudithook(_hook)


@contextmanager
def changes():
    """The paths that this process opens for writing, makes, moves or removes meanwhile, whichever thread does."""
    found: list[str] = []
    _watch["changed"] = found
    try:
        yield found
    finally:
        _watch["changed"] = None


def outside(found, home):
    """Those that are neither `home` nor under it; what Python and hypothesis keep for themselves does not count."""
    plain = [unquote(path.removeprefix("file:").partition("?mode")[0]) for path in found]  # SQLite's own URLs too
    real = {os.path.realpath(path) for path in plain if "__pycache__" not in path and ".hypothesis" not in path}
    return sorted(path for path in real if not (path + os.sep).startswith(str(home) + os.sep))


NAMES = [
    "..", "../..", "../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e", "%2e%2e%2f%2e%2e%2fx", "%252e%252e%252fx",
    "%25252e%25252e", "..%5c..%5cx", "..\\..\\x", "%00", "voice%00.json", "%0a%0dX-Evil:1", "C:%5cx", "C:/x", "/etc/passwd",
    "//etc/passwd", "%2fetc%2fpasswd", "~", "~root", "%c0%ae%c0%ae", "%ef%bc%8e%ef%bc%8e", "%e2%80%a6", "%ff%fe", "CON",
    "nul.txt", "a" * 300, "%61" * 300, "voice.", ".voice", "-rf", "*", "?", "%3f", "#", "%23", "voice;x", "$(id)", "`id`",
    "%F0%9F%98%80", "sha256:..%2f..%2fx", "sha256:" + "0" * 63, "sha256:" + "0" * 64 + "%2f..", "sha256:" + "G" * 64, "+", "%",
    "%zz", "__", "voi%63e%2f..%2f..", "ｖｏｉｃｅ", "v\u043eice", "0", "-1", "1e9", "99999999999999999999", "\x7f", "\t",
]  # fmt: skip
PLACES = [
    ("GET", "/v1/adapters/{}/voice/versions"), ("GET", "/v1/adapters/_/{}/versions"),
    ("GET", "/v1/adapters/_/voice/versions/{}"), ("GET", "/v1/adapters/_/voice/versions/{}/audit"),
    ("POST", "/v1/adapters/{}/x/versions"), ("POST", "/v1/adapters/_/{}/versions"), ("PUT", "/v1/adapters/_/voice/aliases/{}"),
    ("DELETE", "/v1/adapters/_/voice/aliases/{}"), ("GET", "/v1/blobs/{}"), ("PUT", "/v1/blobs/{}"), ("HEAD", "/v1/uploads/{}"),
    ("GET", "/v1/by-hash/{}"), ("GET", "/v1/bases/{}/adapters"), ("GET", "/voice/resolve/main/{}"),
    ("GET", "/{}/resolve/main/x"),
    ("GET", "/api/models/{}/revision/main"), ("GET", "/api/models/voice/tree/main/{}"), ("GET", "/{}"),
]  # fmt: skip


def _raw(address, request):
    """The status that a request as these bytes gets (0: the connection is closed without an answer), and the answer."""
    with socket.create_connection(address, timeout=10) as line:
        line.sendall(request)
        answer = _rest(line)
    return (int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.1 ") else 0), answer


def _rest(line):
    answer = b""
    with suppress(ConnectionResetError):
        while chunk := line.recv(65536):
            answer += chunk
    return answer


def _request(method, path, body=b"{}", more=""):
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode("utf-8", "surrogateescape") + body


def _address(url):
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def test_no_path_leads_out_of_the_home(registry, tmp_path):
    push(registry, make_adapter(tmp_path / "a"))
    home, asked = registry.settings.home, 0
    before = files_under(home / "blobs")
    with served(home) as url:
        _raw(_address(url), _request("GET", "/v1"))
        with changes() as changed:
            for method, place in PLACES:
                for name in NAMES:
                    status, answer = _raw(_address(url), _request(method, place.format(name), more="If-None-Match: *\r\n"))
                    nothing = answer.endswith(b'{"adapters":[]}')  # hex digits are an id, though of no base
                    assert status == 0 or 400 <= status < 500 or nothing, (method, place, name, answer)
                    assert b"root:" not in answer and b"\nX-Evil" not in answer
                    asked += 1
    assert asked == len(PLACES) * len(NAMES) > 900
    assert outside(changed, home) == [] and files_under(home / "blobs") == before and registry.adapters.names() == ["voice"]


def test_the_watch_sees_what_is_written_outside(tmp_path):
    with changes() as changed:
        (tmp_path / "x").write_text("x")
        (tmp_path / "x").rename(tmp_path / "y")
    assert len(outside(changed, tmp_path / "home")) == 2


FILE_NAMES = ["../../x", "/etc/x", "a/b", "..", "adapter_model.safetensors\0", "evil.py", "C:\\x", "", "con", "x" * 300]


def test_no_file_name_in_a_manifest_leads_anywhere(registry, tmp_path):
    from adreg.registry.manifest import FileEntry, version_digest

    version = push(registry, make_adapter(tmp_path / "a"))
    known = registry.adapters.manifest(version).files
    with served(registry.settings.home) as url, changes() as changed:
        for name in FILE_NAMES:
            files = {**known, name: FileEntry(known["adapter_config.json"].digest, known["adapter_config.json"].size)}
            body = registry.adapters.manifest(version).as_json()
            body.update(files={path: vars(file) for path, file in files.items()}, digest=version_digest(files, None))
            answer = httpx2.post(f"{url}/v1/adapters/_/voice/versions", json=body)
            assert answer.status_code == 422 and answer.json()["error"]["rule"].startswith(("F-", "S-")), (name, answer.text)
    assert outside(changed, registry.settings.home) == [] and len(registry.adapters.versions("voice")) == 1


MALFORMED = [
    b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET /v1 HTTP/9.9\r\n\r\n", b"GET /v1 HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET /v1 HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", b"GET /v1?" + b"a" * 200_000,
    b"GET /v1 HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n", b"GET /v1 HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
    b"PUT /v1/blobs/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    b"PUT /v1/blobs/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"PUT /v1/blobs/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/adapters/_/v/versions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET http://evil/v1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"CONNECT evil:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"TRACE /v1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /v1 HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: \xff\xfe\r\n\r\n",
    b"GET /v1 HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://[\r\n\r\n", b"GET /v1 HTTP/1.1\r\nHost: [\r\n\r\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server for tests that leave nothing behind."""
    with served(tmp_path_factory.mktemp("shared")) as url:
        yield url


@pytest.mark.parametrize("request_", MALFORMED, ids=lambda text: repr(text[:40]))
def test_malformed_requests_harm_nothing(shared, request_):
    with socket.create_connection(_address(shared), timeout=10) as line:
        with suppress(OSError):  # the server may hang up before it heard it all
            line.sendall(request_)
            line.shutdown(socket.SHUT_WR)
        answer = _rest(line)
    assert not re.match(rb"HTTP/1.1 5", answer), answer
    assert httpx2.get(f"{shared}/v1").status_code == 200


KNOWN = ("namespace", "name", "number", "alias", "digest", "id")


def test_schemathesis_finds_no_server_error_and_no_answer_that_is_not_in_the_document(registry, tmp_path):
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    version = push(registry, make_adapter(tmp_path / "a"), "team/voice", "prod")
    file = version.files["adapter_config.json"]
    known = dict(zip(KNOWN, ("team", "voice", 1, "prod", file, version.digest), strict=True))
    with served(registry.settings.home) as url, changes() as changed:
        schema = schemathesis.openapi.from_url(f"{url}/v1/openapi.json")
        for result in schema.get_all_operations():
            assert not isinstance(result, schemathesis.core.result.Err), "the document is not valid"
            _explore(result.ok(), known, [not_a_server_error, response_schema_conformance, status_code_conformance])
    assert outside(changed, registry.settings.home) == [] and "team/voice" in registry.adapters.names()


def _explore(operation, known, checks):
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=operation.as_strategy(), there=strategies.booleans())
    def explore(case, there):
        if there:
            case.path_parameters = {name: known[name] for name in case.path_parameters}
        case.call_and_validate(checks=checks)

    with hypothesis.reporting.with_reporter(lambda text: None):
        explore()


class _Same(socketserver.ThreadingTCPServer):
    """A server with one answer; `seen` are the requests."""

    daemon_threads = True
    answer: bytes
    seen: list[bytes]


class _Answering(socketserver.BaseRequestHandler):
    """Answers every request with the same bytes, whatever is asked."""

    server: _Same

    def handle(self):
        request = b""
        while b"\r\n\r\n" not in request:
            chunk = self.request.recv(65536)
            if not chunk:
                return
            request += chunk
        self.server.seen.append(request)
        try:
            self.request.sendall(self.server.answer)
        except OSError:
            return


@contextmanager
def answering(answer):
    with _Same(("127.0.0.1", 0), _Answering) as server:
        server.answer, server.seen = answer, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", server.seen
        finally:
            server.shutdown()
            thread.join()


def _answer(body, status="200 OK", more=""):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n{more}\r\n".encode() + content


HOSTILE = [
    _answer([]), _answer({}), _answer({"adapters": 5, "versions": 5, "aliases": 5}), _answer(b"<html>"), _answer(b"\xff" * 50),
    _answer({"adapters": [{"name": "../../x"}], "versions": [{"name": "../x"}], "aliases": [{"alias": "../x", "digest": 1}]}),
    _answer({"adapters": [5], "versions": ["x"], "aliases": [None]}), _answer(b"[" * 100_000), _answer(b"{" * 100_000),
    _answer(b"x", "302 Found", "Location: http://127.0.0.1:9/\r\n"), _answer({"error": "x"}, "401 No"),
    _answer({"error": {"message": "\x1b[31m" * 10_000}}, "418 Tea"), _answer(b"", "500 Oops"), b"not http at all", b"",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000, _answer(b"\x1f\x8b\x08\x00junk", more="Content-Encoding: gzip\r\n"),
    _answer({"adapters": [{"name": "a", "name2": 1}]}, "206 Part"),
]  # fmt: skip
ONCE = Patience(attempts=1, pause=0, connect_seconds=2, silent_seconds=3)


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: repr(answer[:30] + answer[-20:]))
def test_hostile_answers_are_remote_errors_and_nothing_is_written(registry, tmp_path, answer):
    digest = "sha256:" + "ab" * 32
    (tmp_path / "source").write_bytes(b"hello")
    with answering(answer) as (url, _):
        there = HttpRemote(url, "adr_secret", ONCE)
        actions = [
            there.names, lambda: there.versions("voice"), lambda: there.aliases("voice"), lambda: there.has_blob(digest),
            lambda: there.store_blob(digest, 5, tmp_path / "source"), lambda: there.fetch_blob(digest, 5, tmp_path / "target"),
            lambda: there.set_alias("voice", "prod", digest, None),
        ]  # fmt: skip
        failed = 0
        for action in actions:
            try:
                action()
            except AdregError as error:
                failed += 1
                assert "\x1b" not in str(error) and "adr_secret" not in str(error) and len(str(error)) < 600
    assert failed >= 3
    assert {path.name for path in tmp_path.iterdir()} <= {"source", "target"}


def test_the_token_goes_to_no_other_host(registry):
    with answering(_answer({"adapters": []})) as (elsewhere, seen_there):
        moved = _answer(b"", "307 Moved", f"Location: {elsewhere}/v1/adapters\r\n")
        with answering(moved) as (url, seen_here):
            with pytest.raises(RemoteError, match="redirects"):
                HttpRemote(url, "adr_secret", ONCE).names()
            assert b"adr_secret" in seen_here[0] and seen_there == []


def test_a_netrc_is_left_alone(registry, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with answering(_answer({"adapters": []})) as (url, seen):
        assert HttpRemote(url, None, ONCE).names() == []
        assert b"authorization" not in seen[0].lower()


def test_endless_answers_end(registry, tmp_path, monkeypatch):
    monkeypatch.setattr("adreg.registry.remotes.http.session.ANSWER_LIMIT", 100_000)
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b" " * 3_000_000
    with answering(endless) as (url, _):
        there = HttpRemote(url, None, ONCE)
        with pytest.raises(RemoteError, match="larger than"):
            there.names()
        with pytest.raises(IntegrityError):
            there.fetch_blob("sha256:" + "a" * 64, 1000, tmp_path / "target")
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 4096 + b"\r\n"
    with answering(chunked * 1 + b"1000\r\n" + b"x" * 4096 + b"\r\n") as (url, _), pytest.raises(IntegrityError):
        HttpRemote(url, None, ONCE).fetch_blob("sha256:" + "a" * 64, 5000, tmp_path / "target")
    assert (tmp_path / "target").stat().st_size <= 5000


def test_other_bytes_than_the_digest_s_never_become_a_blob(registry, tmp_path):
    from adreg.registry.registry import Registry
    from adreg.settings import Settings

    other = Registry(Settings(tmp_path / "other"))
    version = push(other, make_adapter(tmp_path / "a"))
    manifest = other.adapters.manifest(version)
    path = other.blobs.path(version.files["adapter_model.safetensors"])
    path.chmod(0o644)
    path.write_bytes(b"?" * path.stat().st_size)
    with served(other.settings.home) as url, pytest.raises(IntegrityError, match="other bytes"):
        receive(registry, remote(url), manifest)
    assert registry.adapters.names() == [] and files_under(registry.settings.home / "tmp") == {}
    assert not registry.blobs.path(version.files["adapter_model.safetensors"]).exists()
