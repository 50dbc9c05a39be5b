"""API keys as rows: what is kept of them, which wishes are refused, and that every part of the upkeep knows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adreg.errors import ConflictError, NotFoundError, UsageError
from adreg.registry.credentials import hash_of, is_whole
from adreg.registry.keys import Grant
from adreg.registry.registry import Registry
from adreg.registry.store import schema
from adreg.registry.store.database import transaction
from adreg.registry.upkeep.backup import backup
from adreg.registry.upkeep.doctor import doctor
from adreg.registry.upkeep.fsck import fsck
from adreg.registry.upkeep.restore import restore_backup
from adreg.settings import Settings
from tests.registry.soak.builders import furnished, opened


def test_only_the_hash_of_a_secret_is_kept(registry: Registry) -> None:
    grant = Grant(("demo/*", "voice:prod"), 600, 100_000, 8)
    made, secret = registry.keys.create("team-a", grant, "30d")
    content = b"".join(path.read_bytes() for path in registry.settings.home.glob("adreg.db*"))
    assert is_whole(secret) and secret[4:68].encode() not in content and hash_of(secret).encode() in content
    assert registry.keys.all() == [made] and (made.grant, made.state) == (grant, "active")
    assert secret not in json.dumps(made.as_json()) and made.hash not in json.dumps(made.as_json())


def test_a_name_has_one_key_at_a_time(registry: Registry) -> None:
    registry.keys.create("ci", expires="1h")
    with pytest.raises(ConflictError, match="active"):
        registry.keys.create("ci")
    with transaction(registry.db):
        registry.db.execute("update api_key set expires_at = '2020-01-01T00:00:00Z'")
    with pytest.raises(ConflictError, match="expired"):
        registry.keys.create("ci")
    registry.keys.revoke("ci")
    registry.keys.create("ci")
    first = registry.keys.all()[0].revoked_at
    for _ in range(2):
        registry.keys.revoke("ci")
    assert [key.state for key in registry.keys.all()] == ["revoked", "revoked"]
    assert registry.keys.all()[0].revoked_at == first
    with pytest.raises(NotFoundError):
        registry.keys.revoke("nobody")


@pytest.mark.parametrize(
    ("name", "grant", "expires"),
    [
        ("two words", Grant(), None), ("", Grant(), None), ("a" * 65, Grant(), None), ("ключ", Grant(), None),
        ("a", Grant(()), None), ("a", Grant(("",)), None), ("a", Grant(("demo *",)), None), ("a", Grant(("*",) * 101), None),
        ("a", Grant(requests_per_minute=0), None), ("a", Grant(concurrent=-1), None),
        ("a", Grant(tokens_per_minute=1 << 60), None),
        ("a", Grant(), "soon"), ("a", Grant(), "0d"),
    ],
)  # fmt: skip
def test_wishes_that_cannot_be_meant_are_refused(registry: Registry, name: str, grant: Grant, expires: str | None) -> None:
    with pytest.raises(UsageError):
        registry.keys.create(name, grant, expires)
    assert registry.keys.all() == []


def test_a_backup_brings_keys_back_as_they_were(registry: Registry, tmp_path: Path) -> None:
    registry.keys.create("old")
    registry.keys.revoke("old")
    registry.keys.create("new", Grant(("demo/*",)))
    kept = registry.keys.all()
    saved = backup(registry, tmp_path / "saved.tar")
    restore_backup(tmp_path / "saved.tar", tmp_path / "there")
    with opened(tmp_path / "there") as there:
        assert there.keys.all() == kept and saved.manifest.counts["api_key"] == 2


@pytest.mark.parametrize(
    "change",
    [
        "hash = 'short'", "models = '\"*\"'", "models = '[]'", "models = '[1]'", "models = 'none'", "name = 'two words'",
        "expires_at = 'soon'", "created_at = ''",
    ],
)  # fmt: skip
def test_fsck_finds_a_key_that_is_none(registry: Registry, change: str) -> None:
    registry.keys.create("ci")
    assert fsck(registry).problems == ()
    with transaction(registry.db):
        registry.db.execute(f"update api_key set {change}")
    assert [problem.kind for problem in fsck(registry).problems] == ["key"]


def test_doctor_warns_of_a_registry_whose_keys_have_all_ended(registry: Registry) -> None:
    def told() -> list[tuple[str, str]]:
        return [(check.state, check.text) for check in doctor(registry.settings) if check.name == "API keys"]

    assert registry.keys.all() == [] and told() == []
    registry.keys.create("a")
    registry.keys.create("b")
    registry.keys.revoke("a")
    assert told() == [("ok", "1 of 2 are good")]
    registry.keys.revoke("b")
    assert told() == [("warn", "none of 2 is good: adreg serve lets nobody in")]


def test_a_registry_from_before_there_were_keys_takes_them(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        for module in ("schema", "database"):
            earlier.setattr(f"adreg.registry.store.{module}.STEPS", schema.STEPS[:2])
        furnished(home, tmp_path / "sources")
        _, secret = Registry(Settings(home)).tokens.create("push")
    with opened(home) as registry:
        assert registry.keys.all() == [] and registry.tokens.check(secret) is not None
        registry.keys.create("ci")
        assert schema.applied(registry.db) == [step.__name__ for step in schema.STEPS]
        assert fsck(registry).problems == ()
    assert (home / "adreg.db.before-m003_keys").exists()
