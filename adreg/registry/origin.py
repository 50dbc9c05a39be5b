"""What a registry knows around a GGUF file, as plain facts for the audit. Reads no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adreg.audit.gguf import WEIGHTS_ID, GgufFacts
from adreg.errors import NotFoundError
from adreg.registry.registry import Registry
from adreg.registry.versions import find_versions

ADAPTER_LIMIT = 64


def facts_about(found: Registry, fields: Mapping[str, Any], path: Path) -> GgufFacts:
    """The base and the adapters whose ids `fields` carry, and the digest that was recorded for the file at `path`."""
    if not found.settings.database.exists():
        return GgufFacts()
    carried = fields.get(WEIGHTS_ID)
    try:
        base = found.bases.get(carried).card if isinstance(carried, str) and carried else None
    except NotFoundError:
        base = None
    records = found.artifacts.at(path.absolute())
    return GgufFacts(
        base=base if base is not None and base.ids.weights_id == carried else None,
        adapters=dict(_adapters(found, fields)),
        recorded=records[0].digest if records else "",
    )


def _adapters(found: Registry, fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    digests = [fields.get(f"adreg.adapter.{number}.digest") for number in range(ADAPTER_LIMIT)]
    known = [find_versions(found.db, "version.digest = ?", [digest]) for digest in digests if isinstance(digest, str)]
    return [(versions[0].digest, versions[0].reference) for versions in known if versions]
