"""What was derived from versions: merged checkpoints and GGUF files, with their proof."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from adreg.registry.records import ArtifactRecord, VersionRecord
from adreg.registry.store.database import now, transaction
from adreg.registry.store.sqlite import Database


@dataclass(frozen=True)
class Derived:
    """A file or folder that was made from a version; `recipe` says how, `verification` how well it agrees."""

    kind: str
    path: str
    digest: str
    size: int
    recipe: dict[str, Any]
    verification: dict[str, Any] | None


@dataclass(frozen=True)
class Artifacts:
    """The artifacts of one registry."""

    db: Database

    def add(self, version: VersionRecord, derived: Derived) -> None:
        row = {
            "kind": derived.kind,
            "path": derived.path,
            "digest": derived.digest,
            "size": derived.size,
            "version_id": version.id,
            "recipe": json.dumps(derived.recipe),
            "verification": json.dumps(derived.verification) if derived.verification else None,
            "created_at": now(),
        }
        with transaction(self.db):
            self.db.table("artifact").insert(row)

    def of(self, version: VersionRecord) -> list[ArtifactRecord]:
        """The artifacts of `version`, newest first."""
        rows = self.db.query("select * from artifact where version_id = ? order by id desc", [version.id])
        return [_record(version.reference, row) for row in rows]


def _record(reference: str, row: dict[str, Any]) -> ArtifactRecord:
    verification = json.loads(row["verification"]) if row["verification"] else None
    return ArtifactRecord(
        kind=row["kind"],
        path=row["path"],
        digest=row["digest"],
        size=row["size"],
        reference=reference,
        recipe=json.loads(row["recipe"]),
        verification=verification,
        created_at=row["created_at"],
    )
