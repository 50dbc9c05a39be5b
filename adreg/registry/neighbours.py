"""What the audit is told of the registry around a version: its name among others, its neighbours and its parents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.registry.records import VersionRecord
from adreg.registry.store.blobs import BlobStore
from adreg.registry.store.sqlite import Database
from adreg.registry.versions import find_versions

if TYPE_CHECKING:
    from adreg.audit.subject import Neighbour, ParentFact, RegistryFacts
    from adreg.registry.manifest import Parent

MOST = 16
SAME_WEIGHTS = "select version_id from version_file where digest = ?4 and path = ?3"
# each half goes by an index; one condition for both would look at every version
NEWEST_OF_BASE = (
    "select newest.id from version newest join adapter on adapter.id = newest.adapter_id "
    f"where newest.weights_id = ?2 and newest.id != ?1 and deleted_at is null order by newest.id desc limit {MOST}"
)
OTHERS = (
    f"version.id != ?1 and deleted_at is null and version.id in ({SAME_WEIGHTS} union select id from ({NEWEST_OF_BASE})) "
    f"order by version.id in ({SAME_WEIGHTS}) desc, version.id desc limit {MOST}"
)
DESCENDS = (
    "with recursive above(digest) as (select :parent union select parent.digest from parent "
    "join version on version.id = parent.version_id join above on above.digest = version.digest) "
    "select 1 from above where digest = :own"
)


def facts_of(db: Database, blobs: BlobStore, version: VersionRecord, parents: list[Parent]) -> RegistryFacts:
    """What is known around `version`: the same weights under other references first, then the newest `MOST` versions on
    the same base. No tensor is read here; a neighbour's files are opened when a rule asks."""
    from adreg.audit.subject import RegistryFacts

    names = (row[0] for row in db.execute("select name from adapter where deleted_at is null order by name"))
    base = version.trained_on.weights_id if version.trained_on else None
    others = find_versions(db, OTHERS, [version.id, base, WEIGHTS, version.files[WEIGHTS]])
    return RegistryFacts(
        name=version.adapter,
        names=tuple(names),
        weights_sha256=version.files[WEIGHTS],
        neighbours=tuple(_neighbour(blobs, other) for other in others),
        parents=tuple(_parent(db, blobs, version, parent) for parent in parents),
    )


def _neighbour(blobs: BlobStore, version: VersionRecord) -> Neighbour:
    """A version as a neighbour; without its files where one of them is gone."""
    from adreg.audit.subject import Neighbour

    files = {name: blobs.path(version.files[name]) for name in (CONFIG, WEIGHTS)}
    there = files if all(path.exists() for path in files.values()) else {}
    return Neighbour(version.reference, version.files[WEIGHTS], version.trained_on, there)


def _parent(db: Database, blobs: BlobStore, version: VersionRecord, parent: Parent) -> ParentFact:
    from adreg.audit.subject import ParentFact

    found = find_versions(db, "version.digest = ? limit 1", [parent.digest])
    cycle = db.execute(DESCENDS, {"parent": parent.digest, "own": version.digest}).fetchone() is not None
    return ParentFact(parent.reference, parent.relation, _neighbour(blobs, found[0]) if found else None, cycle)
