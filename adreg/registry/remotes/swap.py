"""Aliases by digest, as registries tell each other of them: version numbers are local, digests are not."""

from __future__ import annotations

from adreg.errors import AdregError, ConflictError
from adreg.references import Reference
from adreg.registry.aliases import Move, drop_alias
from adreg.registry.names import live_id
from adreg.registry.records import VersionRecord
from adreg.registry.registry import Registry
from adreg.registry.store.database import transaction

ALIASES = (
    "select alias.name as name, digest from alias join version on version.id = version_id "
    "where alias.adapter_id = ? order by alias.name"
)


class AliasMoved(ConflictError):
    """The alias means something else than was expected."""

    def __init__(self, alias: str, means: str | None) -> None:
        self.means = means
        super().__init__(f"{alias} means {means or 'nothing'} now", "look at what changed, then say what you expect now")


def aliases_of(registry: Registry, name: str) -> dict[str, str]:
    """Alias → digest of the version of `name` that it means here. Raises `NotFoundError`."""
    return dict(registry.db.execute(ALIASES, [live_id(registry.db, name)]).fetchall())


def swap_alias(registry: Registry, name: str, alias: str, digest: str, expect: str | None) -> VersionRecord:
    """Make `alias` mean the version `digest`, if it means `expect` now (None: nothing). Raises `AliasMoved`, or another
    `ConflictError` for a protected alias or a yanked version, or `NotFoundError`."""
    try:
        return registry.adapters.set_alias(Reference(name, digest=digest), alias, Move(expect))
    except ConflictError as error:
        raise _moved(registry, name, alias, expect) or error from error


def remove_alias(registry: Registry, name: str, alias: str, expect: str) -> None:
    """Remove `alias`, if it means `expect` now. As `swap_alias`."""
    with transaction(registry.db):
        moved = _moved(registry, name, alias, expect)
        if moved:
            raise moved
        drop_alias(registry.db, live_id(registry.db, name), alias)


def _moved(registry: Registry, name: str, alias: str, expect: str | None) -> AdregError | None:
    means = aliases_of(registry, name).get(alias)
    return AliasMoved(f"{name}:{alias}", means) if means != expect else None
