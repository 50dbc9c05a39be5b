"""The remotes of a registry by name, and how each is opened by the kind of its URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from adreg.errors import ConflictError, IntegrityError, MissingExtra, NotFoundError, RemoteError, UsageError
from adreg.references import check_name
from adreg.registry.names import one
from adreg.registry.registry import Registry
from adreg.registry.remotes.tokenfile import token_for
from adreg.registry.store.database import now, transaction

if TYPE_CHECKING:
    from adreg.registry.remotes.remote import Remote

HTTP, OBJECTS = ("http", "https"), ("file", "s3", "gs")
KINDS = "a remote is https://host, http://host, file:///folder, s3://bucket/prefix or gs://bucket/prefix"
_TEXT = re.compile(r"[!-~]{1,2000}", re.ASCII)


@dataclass(frozen=True)
class RemoteRecord:
    """A remote that was added: what it is called here, and where it is."""

    name: str
    url: str
    created_at: str


@dataclass(frozen=True)
class Remotes:
    """The remotes of one registry."""

    registry: Registry

    def add(self, name: str, url: str) -> RemoteRecord:
        """Remember `url` as `name`; the same again is no change. Raises `UsageError` or `ConflictError`."""
        if "/" in check_name(name):
            raise UsageError(f"{name!r} cannot name a remote", "a remote's name has no '/'")
        record = RemoteRecord(name, check_url(url), now())
        known = self._row(name)
        if known and known.url != record.url:
            raise ConflictError(f"remote {name!r} is {known.url}", f"adreg remote rm {name}, or choose another name")
        self._require_no_namespace(name)
        if known is None:
            with transaction(self.registry.db):
                self.registry.db.execute("insert into remote values (?, ?, ?)", [name, record.url, record.created_at])
        return known or record

    def _require_no_namespace(self, name: str) -> None:
        """`name/x` must mean one thing: an adapter here, or an adapter there."""
        row = one(self.registry.db, "select name from adapter where name >= ? and name < ?", [f"{name}/", f"{name}0"])
        if row:
            raise ConflictError(f"{name!r} is a namespace here ({row['name']})", "choose another name for the remote")

    def all(self) -> list[RemoteRecord]:
        return [RemoteRecord(**row) for row in self.registry.db.query("select * from remote order by name")]

    def get(self, name: str) -> RemoteRecord:
        """The remote called `name`. Raises `NotFoundError`."""
        found = self._row(name)
        if found is None:
            raise NotFoundError("remote", name, [record.name for record in self.all()])
        return found

    def remove(self, name: str) -> RemoteRecord:
        """Forget a remote; what was pulled from it stays."""
        found = self.get(name)
        with transaction(self.registry.db):
            self.registry.db.execute("delete from remote where name = ?", [name])
        return found

    def open(self, name: str) -> Remote:
        """The remote called `name`, ready to be asked."""
        return open_remote(self.get(name).url, self.registry.settings.home)

    def _row(self, name: str) -> RemoteRecord | None:
        row = one(self.registry.db, "select * from remote where name = ?", [name])
        return RemoteRecord(**row) if row else None


def check_url(url: str) -> str:
    """`url` without a slash at its end. Raises `UsageError` for what no remote has, secrets in it above all."""
    try:
        parts = urlsplit(url)
        holds_secret, _ = "@" in parts.netloc, parts.port if parts.scheme in HTTP else None
    except ValueError as error:
        raise UsageError(f"that is no URL: {error}", KINDS) from error
    if holds_secret:
        raise UsageError("the URL holds a user or a password", "adreg remote add NAME URL --token-stdin keeps a token safely")
    if not _TEXT.fullmatch(url) or parts.scheme not in HTTP + OBJECTS or parts.query or parts.fragment or "?" in url:
        raise UsageError(f"{url!r} is no URL of a remote", KINDS)
    if parts.scheme in HTTP and (not parts.hostname or ".." in parts.path):
        raise UsageError(f"{url!r} names no host", KINDS)
    return url.rstrip("/")


def open_remote(url: str, home: Path) -> Remote:
    """The remote at `url`; a token for it comes from the environment or from `home`."""
    if urlsplit(check_url(url)).scheme in HTTP:
        from adreg.registry.remotes.http.remote import HttpRemote

        return HttpRemote(url, token_for(url, home))
    from adreg.registry.remotes.objects.remote import open_object_store

    return open_object_store(url)


def refetcher(registry: Registry) -> Callable[[str, int, Path], bool]:
    """A function that writes a blob (digest, size) to a file, from the first remote that has it; whether one had.

    The caller checks the digest. A remote that fails is passed over, and not asked again: another one may have it.
    """
    remotes = {record.name: record for record in Remotes(registry).all()}

    def refetch(digest: str, size: int, target: Path) -> bool:
        for name in list(remotes):
            try:
                if _fetched(open_remote(remotes[name].url, registry.settings.home), digest, size, target):
                    return True
            except (RemoteError, UsageError, MissingExtra):
                del remotes[name]
            except (IntegrityError, NotFoundError):  # this blob only
                continue
        target.unlink(missing_ok=True)
        return False

    return refetch


def _fetched(remote: Remote, digest: str, size: int, target: Path) -> bool:
    if not remote.has_blob(digest):
        return False
    target.unlink(missing_ok=True)
    remote.fetch_blob(digest, size, target)
    return target.stat().st_size == size
