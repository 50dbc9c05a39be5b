"""API keys of a file or a registry: who may ask for which models, how much, until when. Knows hashes, and no requests."""

from __future__ import annotations

import json
import logging
import sqlite3
import tomllib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from time import monotonic
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from adreg.errors import AdregError, IntegrityError, UsageError
from adreg.registry.credentials import hash_of
from adreg.registry.keys import KeyRecord
from adreg.registry.registry import Registry
from adreg.registry.store.database import sqlite_errors
from adreg.settings import Settings

SHORTEST = 16
REREAD_SECONDS = 2.0
log = logging.getLogger("adreg.serve")


@dataclass(frozen=True)
class Key:
    """One key. `models` are patterns of model names such as `demo/*`; limits of None are none."""

    id: str
    models: tuple[str, ...] = ("*",)
    expires_at: datetime | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    @property
    def sees_all(self) -> bool:
        return "*" in self.models

    def sees(self, model: str) -> bool:
        """Whether `model` is one of its own: `voice` is every version of it, `voice:prod` that alias alone."""
        name = model.partition("@")[0].partition(":")[0]
        return any(fnmatchcase(model, pattern) or fnmatchcase(name, pattern) for pattern in self.models)


Hashed = Mapping[str, Key]
"""Keys by the hash of their secret."""


class Keyring:
    """The keys of one server. `read` gives them, or None while none was ever made, and then nobody needs one.

    It is asked again every few seconds, so a new or revoked key counts soon. Whoever needed a key once always will.
    """

    def __init__(self, read: Callable[[], Hashed | None]) -> None:
        self._read = read
        self._keys, self._read_at = read(), monotonic()

    @property
    def open(self) -> bool:
        """Whether nobody needs a key."""
        return self._keys is None

    @property
    def stale(self) -> bool:
        return monotonic() - self._read_at > REREAD_SECONDS

    def refresh(self) -> None:
        """Read the keys again. What cannot be read changes nothing, and is logged."""
        self._read_at = monotonic()
        try:
            found = self._read()
        except (AdregError, OSError) as error:
            log.error("the API keys could not be read again; the old ones stay: %s", error)
            return
        if found is not None or not self.open:
            self._keys = found or {}

    def and_also(self, secret: str, key: Key) -> Keyring:
        """The same keys, and where one is needed, one more that is kept nowhere."""
        more = {hash_of(secret): key}

        def read() -> Hashed | None:
            found = self._read()
            return None if found is None else {**found, **more}

        return Keyring(read)

    def find(self, secret: str) -> Key | None:
        """The key that `secret` opens, unless it has expired."""
        key = (self._keys or {}).get(hash_of(secret))
        return None if key is None or key.expired else key


def key_file(path: Path) -> Keyring:
    """The keys in `path`: one line that is the key, or a .toml or .json file with a list `keys`. Raises `UsageError`.

    An entry has `id`, its `secret` or the `sha256` of it, and optionally the other fields of `Key`.
    """
    return Keyring(lambda: _read_file(path))


def registry_keys(settings: Settings) -> Keyring:
    """Those that `adreg key create` made in the registry. Once there was one, one is needed, revoked or not."""
    return Keyring(lambda: _read_registry(settings))


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    secret: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    models: list[str] = Field(["*"], min_length=1)
    expires_at: AwareDatetime | None = None
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    concurrent: int | None = Field(None, ge=1)

    def key(self) -> Key:
        fields = self.model_dump(exclude={"secret", "sha256", "models"})
        return Key(models=tuple(self.models), **fields)

    def hash(self, where: str) -> str:
        if (self.secret is None) == (self.sha256 is None):
            raise UsageError(f"{where}: key {self.id!r} needs either secret or sha256")
        return self.sha256 or hash_of(_checked(self.secret or "", f"{where}: the secret of {self.id!r}"))


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[_Entry] = Field(min_length=1)


def _read_registry(settings: Settings) -> Hashed | None:
    """Over a connection of its own: any thread may ask, and a registry that was restored meanwhile is another file."""
    if not settings.database.exists():
        return None
    found = Registry(settings)
    try:
        with sqlite_errors(settings.database), closing(found.db.conn):
            made = found.keys.all()
        return {key.hash: _of_record(key) for key in made if key.state == "active"} if made else None
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise IntegrityError(f"the API keys in {settings.database} cannot be read: {error}") from error


def _of_record(key: KeyRecord) -> Key:
    expires_at = datetime.fromisoformat(key.expires_at) if key.expires_at else None
    return Key(key.name, expires_at=expires_at, **vars(key.grant))


def _read_file(path: Path) -> Hashed:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a file of API keys", f"openssl rand -hex 32 > {path}") from error
    if path.suffix not in (".toml", ".json"):
        return {hash_of(_checked(text.strip(), str(path), f"openssl rand -hex 32 > {path}")): Key("key")}
    entries = _parsed(path, text).keys
    found = {entry.hash(str(path)): entry.key() for entry in entries}
    if not len({entry.id for entry in entries}) == len(found) == len(entries):
        raise UsageError(f"{path}: two keys have the same id or the same secret")
    return found


def _parsed(path: Path, text: str) -> _File:
    try:
        content: Any = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        return _File.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from error


def _checked(secret: str, what: str, hint: str = "") -> str:
    if len(secret) < SHORTEST or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise UsageError(f"{what} is no key: at least {SHORTEST} visible ASCII characters, without spaces", hint)
    return secret
