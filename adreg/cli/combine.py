"""`adreg merge --to adapter`: several adapters become a new one, which names its parents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from adreg.cli.merging import Weighted
from adreg.cli.output import Output
from adreg.cli.permits import Permits, remember
from adreg.cli.progress import progress
from adreg.errors import ConflictError

if TYPE_CHECKING:
    from adreg.export.combine.settings import Combination
    from adreg.registry.records import BaseRecord, VersionRecord
    from adreg.registry.registry import Registry


def combine(
    found: Registry,
    versions: Weighted,
    record: BaseRecord,
    combination: Combination,
    output: Path,
    push: str | None,
    permits: Permits,
    dry_run: bool,
    out: Output,
) -> None:
    """Write the adapter that `versions` on the base `record` make, and push it where a name for it was given."""
    from adreg.cli.adapters import store
    from adreg.cli.common import name_and_alias
    from adreg.export.changes.source import Source
    from adreg.export.combine.adapter import plan_combine, write_combined

    reference = name_and_alias(push) if push else None
    sources = [Source(found.adapters.open(version), scale, version.reference) for version, scale in versions]
    _check_one_base([version for version, _ in versions])
    plan = plan_combine(sources, combination, output, _provenance(record, versions))
    if dry_run:
        out.fields(plan.describe(), "output", [(key, str(value)) for key, value in plan.describe().items()])
        return
    remember(out, found, permits)
    made = write_combined(plan, progress(out.human))
    ranks = ", ".join(map(str, made.ranks))
    told = f"wrote {made.folder}, rank {ranks}; every module holds {made.held:.1%} or more of its update"
    facts = {**plan.describe(), "ranks": made.ranks, "held": made.held}
    if reference is None:
        out.done(told, facts, "output")
        return
    version = store(found, made.folder, reference, record.name, out).version
    out.done(f"{told}; pushed as {version.reference}", {**facts, "reference": version.reference}, "reference")


def _check_one_base(versions: Sequence[VersionRecord]) -> None:
    ids = {version.trained_on.weights_id for version in versions if version.trained_on}
    if len(ids) > 1:
        raise ConflictError("these adapters were trained on different bases", "combine adapters of one base")


def _provenance(record: BaseRecord, versions: Weighted) -> dict[str, object]:
    """What a push of the folder records: the base, and the parents."""
    parents = [{"digest": made.digest, "reference": made.reference, "relation": "merged"} for made, _ in versions]
    return {"base": {"name": record.name, **asdict(record.card.ids)}, "parents": parents}
