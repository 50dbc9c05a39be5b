"""What was derived from versions: merged checkpoints and GGUF files, with their proof."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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

    def add(self, versions: Sequence[tuple[VersionRecord, float]], derived: Derived) -> None:
        """Remember `derived` with every version that went into it, each with its weight."""
        sources = [{"reference": made.reference, "digest": made.digest, "weight": weight} for made, weight in versions]
        row = {
            "kind": derived.kind,
            "path": derived.path,
            "digest": derived.digest,
            "size": derived.size,
            "recipe": json.dumps({**derived.recipe, "sources": sources}),
            "verification": json.dumps(derived.verification) if derived.verification else None,
            "created_at": now(),
        }
        with transaction(self.db):
            for version, _ in versions:
                self.db.table("artifact").insert({**row, "version_id": version.id})

    def of(self, version: VersionRecord) -> list[ArtifactRecord]:
        """The artifacts of `version`, newest first."""
        return self._find("version_id = ?", [version.id])

    def by_digest(self, digest: str) -> list[ArtifactRecord]:
        """The artifacts whose main file has this digest, newest first; one for each version that went into it."""
        return self._find("artifact.digest = ?", [digest])

    def at(self, path: Path) -> list[ArtifactRecord]:
        """The artifacts that were written to `path`, newest first."""
        return self._find("artifact.path = ?", [str(path)])

    def of_size(self, size: int) -> bool:
        """Whether some artifact's main file has `size` bytes."""
        return self.db.execute("select 1 from artifact where size = ? limit 1", [size]).fetchone() is not None

    def _find(self, where: str, values: list[Any]) -> list[ArtifactRecord]:
        query = (
            "select artifact.*, adapter.name || ':' || number as reference, version.digest as version_digest from artifact "
            "join version on version.id = version_id join adapter on adapter.id = adapter_id "
            f"where {where} order by artifact.id desc"
        )
        return [_record(row) for row in self.db.query(query, values)]


def _record(row: dict[str, Any]) -> ArtifactRecord:
    recipe = json.loads(row["recipe"])
    alone = {"reference": row["reference"], "digest": row["version_digest"], "weight": None}
    return ArtifactRecord(
        kind=row["kind"],
        path=row["path"],
        digest=row["digest"],
        size=row["size"],
        reference=row["reference"],
        sources=tuple(recipe.get("sources") or [alone]),
        recipe=recipe,
        verification=json.loads(row["verification"]) if row["verification"] else None,
        created_at=row["created_at"],
    )
