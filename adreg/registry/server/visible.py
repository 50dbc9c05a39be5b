"""What a caller may see of the registry: adapters within its namespace, and the blobs and bases that they lead to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from adreg.errors import NotFoundError, UsageError
from adreg.references import Reference, check_name
from adreg.registry.records import BaseRecord, VersionRecord
from adreg.registry.registry import Registry
from adreg.registry.server.callers import Caller
from adreg.registry.server.uploads import holds
from adreg.registry.store.blobs import DIGEST
from adreg.registry.tokens import NO_NAMESPACE, Scope

BASE_IDS = (
    "arch_id", "layout_id", "weights_id", "content_id", "values_id", "cfg_id", "tok_id", "vocab_id", "tpl_id", "tpl_sem",
)  # fmt: skip
OWNERS = (
    "select distinct adapter.name as name from version_file join version on version.id = version_id "
    "join adapter on adapter.id = adapter_id where deleted_at is null and version_file.digest = ?"
)


def full_name(namespace: str, name: str) -> str:
    """The adapter's name from the two parts of a URL. Raises `UsageError` for what cannot be one."""
    text = name if namespace == NO_NAMESPACE else f"{namespace}/{name}"
    if "/" in name or text.count("/") != (namespace != NO_NAMESPACE):
        raise UsageError(f"{text!r} is no name of an adapter")
    return check_name(text)


def require_digest(text: str) -> str:
    """`text` itself when it is a whole SHA-256 digest."""
    if not DIGEST.fullmatch(text):
        raise UsageError(f"{text[:80]!r} is no digest", "a digest is sha256: and 64 lower-case hex digits")
    return text


def find_version(registry: Registry, name: str, number: int) -> VersionRecord:
    """Version `number` of `name`, yanked or not. Raises `NotFoundError`."""
    for version in registry.adapters.versions(name):
        if version.number == number:
            return version
    raise NotFoundError("version", str(Reference(name, version=number)))


def may_read_blob(registry: Registry, caller: Caller, digest: str) -> bool:
    """Whether a version that the caller may read has this file, or the caller has just sent it."""
    names = (row["name"] for row in registry.db.query(OWNERS, [digest]))
    if caller.scope >= Scope.READ and any(caller.reaches(name) for name in names):
        return True
    # the lease is taken a moment before the blob is there
    return caller.scope >= Scope.PUSH and holds(registry.db, caller.id, digest) and registry.blobs.path(digest).exists()


def missing_blobs(registry: Registry, caller: Caller, digests: Iterable[str]) -> list[str]:
    """Those of `digests` that the caller has yet to send: knowing a digest is no right to its bytes."""
    return [
        digest
        for digest in sorted(set(digests))
        if not registry.blobs.path(digest).exists() or not may_read_blob(registry, caller, digest)
    ]


def visible(caller: Caller, versions: Iterable[VersionRecord]) -> list[VersionRecord]:
    return [version for version in versions if caller.reaches(version.adapter)]


def public_base(base: BaseRecord) -> dict[str, Any]:
    """A base as others may know it: what it is, not where it lies here."""
    card = base.card
    return {
        "name": base.name,
        "architecture": card.architecture,
        "parameters": card.parameters,
        "dtype": card.dtype,
        "ids": vars(card.ids),
        "added_at": base.added_at,
    }
