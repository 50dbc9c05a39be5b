"""Tokens for the registry's HTTP server. Knows scopes and namespaces, not requests."""

from __future__ import annotations

import hmac
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

from adreg.errors import ConflictError, NotFoundError, StorageError, UsageError
from adreg.references import check_name
from adreg.registry.credentials import expiry, hash_of, is_whole, mint, state_of
from adreg.registry.names import one
from adreg.registry.store.database import now, transaction
from adreg.registry.store.sqlite import Database

EVERYWHERE, NO_NAMESPACE = "*", "_"
ID_LENGTH = 12
USE_RECORDED_SECONDS = 60


class Scope(IntEnum):
    """What a token allows; each scope holds those below it."""

    READ = 0
    PUSH = 1
    ADMIN = 2

    @property
    def label(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class TokenRecord:
    """A token without its secret. `namespace` is `*`, a namespace, or `_` for names without one."""

    id: str
    label: str
    scope: Scope
    namespace: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None

    @property
    def state(self) -> str:
        return state_of(self.expires_at, self.revoked_at)

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "scope": self.scope.label, "state": self.state}


@dataclass(frozen=True)
class Tokens:
    """The tokens of one registry."""

    db: Database

    def create(
        self, scope: str, namespace: str = EVERYWHERE, label: str = "", expires: str | None = None
    ) -> tuple[TokenRecord, str]:
        """A new token and its secret, which is kept nowhere. `expires` is a time from now such as `30d` or `12h`."""
        if namespace not in (EVERYWHERE, NO_NAMESPACE) and "/" in check_name(namespace):
            raise UsageError(f"{namespace!r} is no namespace", "the namespace of team/voice is team; '*' is every one")
        secret = mint()
        digest = hash_of(secret)
        record = TokenRecord(
            digest[:ID_LENGTH],
            label,
            parse_scope(scope),
            namespace,
            now(),
            expiry(expires),
            last_used_at=None,
            revoked_at=None,
        )
        row = {**vars(record), "scopes": record.scope.label, "hash": digest}
        del row["scope"]
        with transaction(self.db):
            self.db.table("token").insert(row)
        return record, secret

    def all(self) -> list[TokenRecord]:
        """Every token there ever was, oldest first."""
        return [_record(row) for row in self.db.query("select * from token order by created_at, id")]

    def exist(self) -> bool:
        """Whether a token was ever made: revoking the last one must not open the door."""
        return one(self.db, "select 1 from token limit 1", []) is not None

    def revoke(self, id_: str) -> TokenRecord:
        """End the token whose id starts with `id_`; again is no change. Raises `NotFoundError`."""
        found = [token for token in self.all() if id_ and token.id.startswith(id_)]
        if len(found) != 1:
            raise NotFoundError("token", id_, [token.id for token in found])
        with transaction(self.db):
            self.db.execute("update token set revoked_at = coalesce(revoked_at, ?) where id = ?", [now(), found[0].id])
        return found[0]

    def check(self, secret: str) -> TokenRecord | None:
        """The active token that `secret` is, or None; its use is recorded, to the minute."""
        if not is_whole(secret):
            return None
        digest = hash_of(secret)
        row = one(self.db, "select * from token where id = ?", [digest[:ID_LENGTH]])
        if row is None or not hmac.compare_digest(row["hash"], digest):
            return None
        record = _record(row)
        if record.state != "active":
            return None
        self._record_use(record)
        return record

    def _record_use(self, record: TokenRecord) -> None:
        before = record.last_used_at
        if before and _seconds_since(before) < USE_RECORDED_SECONDS:
            return
        # a registry on a read-only disk, or one that is busy, can be read all the same
        with suppress(StorageError, ConflictError), transaction(self.db):
            self.db.execute("update token set last_used_at = ? where id = ?", [now(), record.id])


def parse_scope(text: str) -> Scope:
    """The scope called `text`. Raises `UsageError`."""
    try:
        return Scope[text.upper()]
    except KeyError:
        raise UsageError(f"{text!r} is no scope", "scopes are read, push and admin") from None


def _seconds_since(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def _record(row: dict[str, Any]) -> TokenRecord:
    return TokenRecord(
        id=row["id"],
        label=row["label"],
        scope=parse_scope(row["scopes"]),
        namespace=row["namespace"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
    )
