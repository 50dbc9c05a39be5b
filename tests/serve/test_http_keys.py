"""API keys: who comes in, what each sees, how much each may ask, and the files that say so."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adreg.errors import UsageError
from adreg.registry.credentials import hash_of
from adreg.registry.keys import Grant
from adreg.registry.registry import Registry
from adreg.registry.store.database import transaction
from adreg.registry.upkeep.backup import backup
from adreg.registry.upkeep.restore import restore_backup
from adreg.serve.api.service import Options
from adreg.serve.server.keys import Key, Keyring, key_file, registry_keys
from adreg.settings import Settings
from tests.serve.parrot import served

CHAT = "/v1/chat/completions"
SECRETS = {name: f"secret-of-{name}-0123456789" for name in ("all", "fox", "slow", "few", "one", "late")}


def ask(**changes: Any) -> dict[str, Any]:
    return {
        "model": "demo/fox",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0,
        "max_tokens": 3,
        **changes,
    }


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[name]}"}


def code(response: httpx2.Response, status: int) -> str:
    assert response.status_code == status, response.text
    return str(response.json()["error"]["code"])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(
        f"""
keys = [
  {{id = "all", secret = "{SECRETS["all"]}"}},
  {{id = "fox", sha256 = "{hashlib.sha256(SECRETS["fox"].encode()).hexdigest()}", models = ["demo/fox"]}},
  {{id = "slow", secret = "{SECRETS["slow"]}", requests_per_minute = 2}},
  {{id = "few", secret = "{SECRETS["few"]}", tokens_per_minute = 60}},
  {{id = "one", secret = "{SECRETS["one"]}", concurrent = 1}},
  {{id = "late", secret = "{SECRETS["late"]}", expires_at = 2020-01-01T00:00:00Z}},
]
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def http(tokenizer_folder: Path, file: Path) -> Iterator[httpx2.Client]:
    with served(tokenizer_folder, Options(key_file(file))) as (url, _, _), httpx2.Client(base_url=url) as client:
        yield client


def test_only_bearers_of_a_living_key_come_in(http: httpx2.Client) -> None:
    for given in (
        "",
        "Bearer",
        "Bearer secret-of-all",
        f"Basic {SECRETS['all']}",
        "Bearer s3cret\xff",
        f"Bearer {SECRETS['late']}",
    ):
        refused = http.post(CHAT, json=ask(), headers={b"authorization": given.encode("latin-1")})
        assert code(refused, 401) == "invalid_api_key"
        assert refused.headers["www-authenticate"] == "Bearer"
    for path in ("/nope", "/metrics", "/status", "/v1/models", "/version"):
        assert http.get(path).status_code == 401
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").status_code == 200
    assert http.post(CHAT, json=ask(), headers=bearer("all")).status_code == 200
    # a key is enough, whatever the server is called
    assert http.get("/v1/models", headers={**bearer("all"), "host": "models.example"}).status_code == 200


def test_a_key_sees_its_own_models_and_no_trace_of_others(http: httpx2.Client) -> None:
    def ids(name: str) -> list[str]:
        return [model["id"] for model in http.get("/v1/models", headers=bearer(name)).json()["data"]]

    assert len(ids("all")) > 3
    assert ids("fox") == ["demo/fox", "demo/fox:prod"]
    assert http.post(CHAT, json=ask(model="demo/fox:prod"), headers=bearer("fox")).status_code == 200
    answers = {}
    for model in ("demo/owl", "base", "demo/broken", "demo/foreign", "demo/missing"):
        for path in (f"/v1/models/{model}", None):
            response = (
                http.get(path, headers=bearer("fox")) if path else http.post(CHAT, json=ask(model=model), headers=bearer("fox"))
            )
            assert code(response, 404) == "model_not_found"
            answers[model, path] = response.json()["error"]["message"].replace(model, "M")
        assert code(http.post("/tokenize", json={"model": model, "prompt": "x"}, headers=bearer("fox")), 404)
    assert set(answers.values()) == {"the model 'M' does not exist"}
    near = http.post(CHAT, json=ask(model="demo/"), headers=bearer("fox")).json()["error"]["message"]
    assert "owl" not in near
    assert code(http.get("/metrics", headers=bearer("fox")), 403) == "key_not_allowed"


def test_requests_and_tokens_a_minute_run_out_and_say_when_to_return(http: httpx2.Client) -> None:
    for _ in range(2):
        assert http.post(CHAT, json=ask(), headers=bearer("slow")).status_code == 200
    third = http.post(CHAT, json=ask(), headers=bearer("slow"))
    assert code(third, 429) == "requests_per_minute_exceeded"
    assert 20 <= int(third.headers["retry-after"]) <= 30
    used = 0
    while used < 60:
        used += http.post(CHAT, json=ask(stream=False), headers=bearer("few")).json()["usage"]["total_tokens"]
    spent = http.post(CHAT, json=ask(stream=True), headers=bearer("few"))
    assert code(spent, 429) == "tokens_per_minute_exceeded"
    assert used - 60 <= int(spent.headers["retry-after"]) <= used - 60 + 2


def test_requests_at_once_are_counted_until_each_is_over(tokenizer_folder: Path, file: Path) -> None:
    with served(tokenizer_folder, Options(key_file(file))) as (url, _, executor), httpx2.Client(base_url=url) as http:
        executor.pause = 0.01
        endless = ask(max_tokens=3000, ignore_eos=True, stream=True)
        with http.stream("POST", CHAT, json=endless, headers=bearer("one")):
            assert code(http.post(CHAT, json=ask(), headers=bearer("one")), 429) == "concurrent_requests_exceeded"
            assert http.post(CHAT, json=ask(), headers=bearer("all")).status_code == 200
        deadline = time.monotonic() + 10
        while http.post(CHAT, json=ask(), headers=bearer("one")).status_code == 429:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_tenants_do_not_share_cached_prefixes(tokenizer_folder: Path, file: Path) -> None:
    prompt = "The keeper lights a lamp. " * 30

    def cached(http: httpx2.Client, name: str) -> int:
        body = {"model": "base", "prompt": prompt, "max_tokens": 1}
        usage = http.post("/v1/completions", json=body, headers=bearer(name)).json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    with served(tokenizer_folder, Options(key_file(file))) as (url, _, _), httpx2.Client(base_url=url) as http:
        assert [cached(http, "all"), cached(http, "one")] == [0, 0]
        assert cached(http, "all") > 100


def test_a_changed_file_counts_soon_and_a_broken_one_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adreg.serve.server.keys.REREAD_SECONDS", 0.0)
    path = tmp_path / "key"
    path.write_text(SECRETS["all"] + "\n")
    ring = key_file(path)
    assert ring.find(SECRETS["all"]) == Key("key")
    path.write_text("short")
    ring.refresh()
    assert ring.stale and ring.find(SECRETS["all"])
    path.write_text(SECRETS["fox"])
    ring.refresh()
    assert (ring.find(SECRETS["all"]), ring.find(SECRETS["fox"])) == (None, Key("key"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("key", "two words and more than that"),
        ("key", "ключ-ключ-ключ-ключ-ключ"),
        ("key", ""),
        ("keys.json", "{"),
        ("keys.json", '{"keys": []}'),
        ("keys.json", json.dumps({"keys": [{"id": "a"}]})),
        ("keys.json", json.dumps({"keys": [{"id": "a", "secret": "x" * 20, "scope": "all"}]})),
        ("keys.json", json.dumps({"keys": [{"id": "a", "secret": "x" * 20}, {"id": "a", "secret": "y" * 20}]})),
        ("keys.json", json.dumps({"keys": [{"id": "a", "secret": "x" * 20}, {"id": "b", "secret": "x" * 20}]})),
        ("keys.toml", 'keys = [{id = "a", secret = "too-short"}]'),
        ("keys.toml", 'keys = [{id = "a", secret = "0123456789abcdef", expires_at = 2030-01-01T00:00:00}]'),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError):
        key_file(tmp_path / name)


def test_patterns_are_of_names_with_or_without_a_tag() -> None:
    team, prod = Key("a", ("demo/*",)), Key("b", ("demo/fox:prod", "base"))
    assert all(team.sees(model) for model in ("demo/fox", "demo/fox:3", "demo/fox:prod", "demo/fox@sha256:" + "a" * 64))
    assert not any(team.sees(model) for model in ("demo", "base", "demofox", "other/demo/x"))
    assert prod.sees("demo/fox:prod") and prod.sees("base")
    assert not prod.sees("demo/fox") and not prod.sees("demo/fox:1")


def test_keys_are_read_again_while_requests_are_answered(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adreg.serve.server.keys.REREAD_SECONDS", 0.0)
    keys = {hash_of(SECRETS["all"]): Key("all")}
    threads: set[str] = set()

    def read() -> dict[str, Key]:
        threads.add(threading.current_thread().name)
        return dict(keys)

    with served(tokenizer_folder, Options(Keyring(read))) as (url, _, _), httpx2.Client(base_url=url) as http:
        assert http.get("/v1/models", headers=bearer("all")).status_code == 200
        keys.clear()
        assert http.get("/v1/models", headers=bearer("all")).status_code == 401
    assert "adreg-http" not in threads, "the event loop must not wait for a disk"


@pytest.fixture
def registry(home: Path) -> Registry:
    """One without a key, which the server reads again for every request."""
    registry = Registry(Settings(home))
    assert registry.keys.all() == []
    return registry


@pytest.fixture
def status(
    registry: Registry, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str | None], int]]:
    """Asks a server with the keys of `registry` for a completion of demo/fox; the answer's status."""
    monkeypatch.setattr("adreg.serve.server.keys.REREAD_SECONDS", 0.0)
    options = Options(registry_keys(registry.settings))
    with served(tokenizer_folder, options) as (url, _, _), httpx2.Client(base_url=url) as http:

        def ask_with(secret: str | None) -> int:
            headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
            return http.post(CHAT, json=ask(), headers=headers).status_code

        yield ask_with


def test_keys_of_the_registry_count_from_the_first_on_and_to_the_last(
    registry: Registry, status: Callable[[str | None], int]
) -> None:
    assert status(None) == 200, "none was ever made"
    _, good = registry.keys.create("good")
    _, owl = registry.keys.create("owl", Grant(("demo/owl",)))
    _, late = registry.keys.create("late", expires="1h")
    _, few = registry.keys.create("few", Grant(requests_per_minute=1))
    assert [status(secret) for secret in (None, "adr_" + "0" * 72, good, owl, late, few, few)] == [
        401, 401, 200, 404, 200, 200, 429,
    ]  # fmt: skip
    with transaction(registry.db):
        registry.db.execute("update api_key set expires_at = '2020-01-01T00:00:00Z' where name = 'late'")
    registry.keys.revoke("good")
    assert [status(secret) for secret in (good, late, owl)] == [401, 401, 404]
    _, again = registry.keys.create("good")
    assert [status(secret) for secret in (good, again)] == [401, 200]
    for key in registry.keys.all():
        registry.keys.revoke(key.name)
    assert [status(secret) for secret in (None, good, again, owl)] == [401] * 4, "the last one was revoked"


def test_a_server_that_needed_keys_is_never_open_again(
    registry: Registry, status: Callable[[str | None], int], tmp_path: Path
) -> None:
    registry.keys.revoke(registry.keys.create("early")[0].name)
    backup(registry, tmp_path / "with.tar")
    with transaction(registry.db):
        registry.db.execute("delete from api_key")
    assert status(None) == 200
    _, good = registry.keys.create("good")
    assert [status(None), status(good)] == [401, 200]
    restore_backup(tmp_path / "with.tar", registry.settings.home, replace=True)
    assert [status(None), status(good)] == [401, 401], "the registry is another one now, with other keys"
    registry.settings.database.rename(tmp_path / "gone.db")
    assert status(None) == 401


def test_while_the_registry_cannot_be_read_the_keys_stay_and_expire(
    registry: Registry, status: Callable[[str | None], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, good = registry.keys.create("good")
    _, late = registry.keys.create("late", expires="1h")
    assert [status(good), status(late)] == [200, 200]
    with transaction(registry.db):
        registry.db.execute("update api_key set models = 'none'")
    assert [status(good), status(late), status(None)] == [200, 200, 401]
    content = registry.settings.database.read_bytes()
    registry.db.conn.close()
    for end in ("-wal", "-shm"):
        registry.settings.database.with_name(f"adreg.db{end}").unlink(missing_ok=True)
    registry.settings.database.write_bytes(b"x" * len(content))
    assert [status(good), status(late), status(None)] == [200, 200, 401]
    monkeypatch.setattr(Key, "expired", property(lambda key: key.expires_at is not None))
    assert [status(good), status(late)] == [200, 401]
