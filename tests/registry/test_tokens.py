"""Tokens by themselves, and the matrix: every route of the OpenAPI document with every kind of credential."""

import hashlib
import os
import re
import string
import subprocess
import sys

import httpx2
import pytest

from adreg.errors import NotFoundError, UsageError
from adreg.registry.credentials import is_whole, mint
from adreg.registry.server.app import check_exposure, create_app
from adreg.registry.store.database import transaction
from adreg.registry.tokens import Scope
from adreg.settings import Settings
from tests.registry.http_tools import make_adapter, push, served

READ_ONLY = ("GET", "HEAD")


def _set_expiry(registry, record, moment):
    with transaction(registry.db):
        registry.db.execute("update token set expires_at = ? where id = ?", [moment, record.id])


def test_a_token_is_256_bits_and_only_its_hash_is_kept(registry):
    secrets = {mint() for _ in range(200)}
    assert len(secrets) == 200 and all(re.fullmatch(r"adr_[0-9a-f]{72}", secret) for secret in secrets)
    _, secret = registry.tokens.create("push")
    assert secret[4:68].encode() not in registry.settings.database.read_bytes()
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in registry.settings.database.read_bytes()


def test_the_checksum_finds_every_mistyped_character():
    secret = mint()
    for place in range(4, len(secret)):
        for digit in set(string.hexdigits.lower()) - {secret[place]}:
            assert not is_whole(secret[:place] + digit + secret[place + 1 :])


def test_only_an_active_token_is_found(registry):
    record, secret = registry.tokens.create("push", "team", "ci", "30d")
    found = registry.tokens.check(secret)
    assert (found.id, found.scope, found.namespace, found.label) == (record.id, Scope.PUSH, "team", "ci")
    assert registry.tokens.all()[0].last_used_at is not None
    assert registry.tokens.check(mint()) is None and registry.tokens.check("") is None
    _set_expiry(registry, record, "2020-01-01T00:00:00Z")
    assert registry.tokens.check(secret) is None and registry.tokens.all()[0].state == "expired"
    _set_expiry(registry, record, None)
    registry.tokens.revoke(record.id[:6])
    assert registry.tokens.check(secret) is None and registry.tokens.all()[0].state == "revoked"
    assert registry.tokens.exist(), "revoking the last token must not open the door"


@pytest.mark.parametrize(
    "wish", [{"scope": "root"}, {"scope": "read", "namespace": "a/b"}, {"scope": "read", "expires": "soon"}, {"scope": ""}]
)
def test_wishes_that_cannot_be_meant_are_refused(registry, wish):
    with pytest.raises(UsageError):
        registry.tokens.create(**wish)


def test_revoking_nobody_or_everybody_is_refused(registry):
    registry.tokens.create("read")
    for id_ in ("", "nothere", "%"):
        with pytest.raises(NotFoundError):
            registry.tokens.revoke(id_)


def test_an_exposed_host_needs_a_token(registry):
    for host in ("0.0.0.0", "::", "192.168.1.5", "registry.example"):
        with pytest.raises(UsageError, match="other machines"):
            check_exposure(host, registry.tokens)
    check_exposure("127.0.0.1", registry.tokens)
    registry.tokens.create("read")
    check_exposure("0.0.0.0", registry.tokens)


@pytest.fixture
def stocked(registry, tmp_path):
    """A registry with team/voice:prod, and a token of every kind."""
    version = push(registry, make_adapter(tmp_path / "a"), "team/voice", "prod")
    make = registry.tokens.create
    secrets = {
        f"{scope}-{where}": make(scope, where)[1] for scope in ("read", "push", "admin") for where in ("*", "team", "else")
    }
    dead, expired = make("admin"), make("admin")
    registry.tokens.revoke(dead[0].id)
    _set_expiry(registry, expired[0], "2020-01-01T00:00:00Z")
    return version, {
        **secrets,
        "revoked": dead[1],
        "expired": expired[1],
        "unknown": mint(),
        "nonsense": "letmein",
        "none": None,
    }


def _routes(home, version):
    """Every method and concrete path of the document, with the scope that it needs."""
    digest = version.files["adapter_config.json"]
    known = {"namespace": "team", "name": "voice", "number": "1", "alias": "prod", "digest": digest, "id": digest}
    for path, methods in create_app(Settings(home)).openapi()["paths"].items():
        for method in methods:
            scope = "read" if method in ("get", "head") and "uploads" not in path else "push"
            yield method.upper(), path.format(**known), "admin" if method == "delete" else scope


def _ask(client, method, path, secret):
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return client.request(method, path, headers=headers)


def test_every_route_with_every_kind_of_token(registry, stocked):
    version, secrets = stocked
    asked = 0
    with served(registry.settings.home) as url, httpx2.Client(base_url=url) as client:
        for method, path, needed in _routes(registry.settings.home, version):
            for kind, secret in secrets.items():
                answer = _ask(client, method, path, secret)
                scope, _, where = kind.partition("-")
                good = where and Scope[scope.upper()] >= Scope[needed.upper()]
                expected = _expected(method, path, where, good)
                assert answer.status_code in expected, (method, path, kind, answer.status_code, answer.text)
                assert method == "HEAD" or answer.status_code < 400 or answer.json()["error"]["type"]
                asked += 1
    assert asked == 18 * 14


def _expected(method, path, where, good):
    """The statuses that a token for the namespace `where` (empty: no valid token) may see."""
    if not where:
        return {401}
    if not good or (where == "else" and "/v1/adapters/" in path):
        return {403}
    if where == "else" and ("/v1/blobs/" in path or "/v1/by-hash" in path) and method in READ_ONLY:
        return {404}
    # an empty body and no condition: let in, and then refused for what is missing
    return {"GET": {200}, "HEAD": {200}, "PUT": {411, 422, 428}, "POST": {400}, "DELETE": {428}}[method]


def test_with_anonymous_read_reading_needs_no_token_and_changing_does(registry, stocked):
    version, secrets = stocked
    with served(registry.settings.home, anonymous_read=True) as url, httpx2.Client(base_url=url) as client:
        for method, path, needed in _routes(registry.settings.home, version):
            status = _ask(client, method, path, None).status_code
            assert status == 200 if needed == "read" else status == 403, (method, path, status)
            assert _ask(client, method, path, secrets["revoked"]).status_code == 401


def test_a_token_sees_only_what_is_in_its_namespace(registry, stocked, tmp_path):
    _, secrets = stocked
    push(registry, make_adapter(tmp_path / "b", 1), "plain")
    names = {}
    with served(registry.settings.home) as url, httpx2.Client(base_url=url) as client:
        for kind in ("read-*", "read-team", "read-else"):
            found = _ask(client, "GET", "/v1/adapters", secrets[kind]).json()["adapters"]
            names[kind] = [entry["name"] for entry in found]
        hub = {kind: _ask(client, "GET", "/api/models/team/voice", secrets[kind]).status_code for kind in ("none", *names)}
    assert names == {"read-*": ["plain", "team/voice"], "read-team": ["team/voice"], "read-else": []}
    assert hub == {"none": 401, "read-*": 200, "read-team": 200, "read-else": 404}


def test_the_hub_s_own_client_pulls_with_a_token(registry, stocked, tmp_path):
    version, secrets = stocked
    script = "import huggingface_hub as h, sys; h.snapshot_download('team/voice', revision='prod', local_dir=sys.argv[1])"
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
    codes = {}
    with served(registry.settings.home) as url:
        for kind in ("read-team", "read-else", "none"):
            words = [sys.executable, "-c", script, str(tmp_path / kind)]
            told = {**environment, "HF_ENDPOINT": url, "HF_TOKEN": secrets[kind] or ""}
            codes[kind] = subprocess.run(words, env=told, capture_output=True, timeout=60).returncode
    assert codes == {"read-team": 0, "read-else": 1, "none": 1}
    assert {path.name for path in (tmp_path / "read-team").iterdir()} >= set(version.files)


def test_knowing_a_digest_is_no_right_to_its_bytes(registry, stocked):
    """A version of one namespace cannot be made from the blobs of another without sending them."""
    version, secrets = stocked
    body = {**registry.adapters.manifest(version).as_json(), "name": "else/voice"}
    with served(registry.settings.home) as url, httpx2.Client(base_url=url) as client:
        headers = {"Authorization": f"Bearer {secrets['push-else']}"}
        answer = client.post("/v1/adapters/else/voice/versions", json=body, headers=headers)
        assert answer.status_code == 409 and sorted(answer.json()["error"]["missing"]) == sorted(version.files.values())
        for digest in version.files.values():
            sent = client.put(f"/v1/blobs/{digest}", content=registry.blobs.path(digest).read_bytes(), headers=headers)
            assert sent.status_code == 200 and client.get(f"/v1/blobs/{digest}", headers=headers).status_code == 200
        assert client.post("/v1/adapters/else/voice/versions", json=body, headers=headers).status_code == 201
    assert registry.db.execute("select count(*) from lease").fetchone()[0] == 0


FOREIGN = [
    {"Host": "registry.example"},
    {"Host": "169.254.169.254:80"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
]


def test_without_tokens_no_web_page_gets_in(registry):
    with served(registry.settings.home) as url, httpx2.Client(base_url=url) as client:
        assert client.get("/v1").status_code == 200
        for headers in FOREIGN:
            assert client.get("/v1", headers=headers).status_code == 403, headers
