"""What the audit forbids, on the command line: asked before an operation, and written into the history where a person
allowed it in spite of that. A suppression is never silent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from adreg.cli.output import Output

if TYPE_CHECKING:
    from adreg.audit.policy import Decision
    from adreg.registry.records import BaseRecord, VersionRecord
    from adreg.registry.registry import Registry

Permits = list[tuple["VersionRecord", "Decision"]]


def permit(
    found: Registry, record: BaseRecord, versions: Sequence[VersionRecord], operation: str, allow: Collection[str]
) -> Permits:
    """Audit every version beside the base. Raises `AuditRefused` for findings against `operation` that are not in `allow`."""
    from adreg.audit.policy import require

    return [
        (version, require(operation, version.reference, found.adapters.audit(version, record.card), allow))
        for version in versions
    ]


def remember(out: Output, found: Registry, permits: Permits) -> None:
    """Say what was allowed, and write it into the history of each version."""
    for version, decision in permits:
        for finding in decision.allowed:
            out.note(f"{version.reference}: {finding.rule} allowed: {finding.message}", "yellow")
        found.adapters.remember(version, decision)
