"""API keys for `adreg serve`: who may ask for which models, how much, until when. Knows their rows, not requests."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adreg.errors import ConflictError, NotFoundError, UsageError
from adreg.registry.credentials import expiry, hash_of, mint, state_of
from adreg.registry.names import one
from adreg.registry.store.database import now, transaction
from adreg.registry.store.sqlite import Database

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_PATTERN = re.compile(r"[!-~]{1,200}", re.ASCII)
MODELS_LIMIT = 100
LARGEST = 1 << 53


@dataclass(frozen=True)
class Grant:
    """What a key allows. `models` are patterns of model names such as `demo/*`; limits of None are none."""

    models: tuple[str, ...] = ("*",)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    def check(self) -> None:
        """Raise `UsageError` for what cannot be meant."""
        if not 0 < len(self.models) <= MODELS_LIMIT:
            raise UsageError(f"a key is for 1 to {MODELS_LIMIT} patterns of models", "'*' is every model")
        for pattern in self.models:
            if not _PATTERN.fullmatch(pattern):
                raise UsageError(f"{pattern!r} is no pattern of model names", "such as 'demo/*', voice:prod or '*'")
        for limit in (self.requests_per_minute, self.tokens_per_minute, self.concurrent):
            if limit is not None and not 1 <= limit <= LARGEST:
                raise UsageError(f"{limit} is no limit", "it is at least 1; leave it out for none")


@dataclass(frozen=True)
class KeyRecord:
    """A key without its secret; `hash` is the SHA-256 of that."""

    name: str
    hash: str
    grant: Grant
    created_at: str
    expires_at: str | None
    revoked_at: str | None

    @property
    def state(self) -> str:
        return state_of(self.expires_at, self.revoked_at)

    def as_json(self) -> dict[str, Any]:
        times = {"created_at": self.created_at, "expires_at": self.expires_at, "revoked_at": self.revoked_at}
        return {"name": self.name, "state": self.state, **asdict(self.grant), **times}


@dataclass(frozen=True)
class ApiKeys:
    """The API keys of one registry."""

    db: Database

    def create(self, name: str, grant: Grant = Grant(), expires: str | None = None) -> tuple[KeyRecord, str]:
        """A new key and its secret, which is kept nowhere. `expires` is a time from now such as `30d` or `12h`.

        A name is free again once its key was revoked. Raises `UsageError`, and `ConflictError` for one that is taken.
        """
        grant.check()
        secret = mint()
        record = KeyRecord(check_key_name(name), hash_of(secret), grant, now(), expiry(expires), revoked_at=None)
        row = {**vars(record), **vars(grant), "models": json.dumps(grant.models)}
        del row["grant"]
        with transaction(self.db):
            taken = one(self.db, "select * from api_key where name = ? and revoked_at is null", [name])
            if taken is not None:
                raise ConflictError(f"there is a key {name!r}, {key_record(taken).state}", f"adreg key revoke {name}")
            self.db.table("api_key").insert(row)
        return record, secret

    def all(self) -> list[KeyRecord]:
        """Every key there ever was, oldest first: a revoked one must not leave the door open."""
        return [key_record(row) for row in self.db.query("select * from api_key order by id")]

    def revoke(self, name: str) -> KeyRecord:
        """End the key `name`; again is no change. Raises `NotFoundError`."""
        found = [key for key in self.all() if key.name == name]
        if not found:
            raise NotFoundError("API key", name, sorted({key.name for key in self.all() if key.state == "active"})[:5])
        with transaction(self.db):
            self.db.execute("update api_key set revoked_at = ? where name = ? and revoked_at is null", [now(), name])
        return found[-1]


def check_key_name(name: str) -> str:
    """`name` itself when a key may be called so."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a key", "1 to 64 letters, digits, '.', '_' and '-'")
    return name


def key_record(row: dict[str, Any]) -> KeyRecord:
    """The key in a row of the table."""
    models: Sequence[str] = json.loads(row["models"])
    grant = Grant(tuple(models), row["requests_per_minute"], row["tokens_per_minute"], row["concurrent"])
    return KeyRecord(row["name"], row["hash"], grant, row["created_at"], row["expires_at"], row["revoked_at"])
