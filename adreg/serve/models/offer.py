"""What of a registry is served on one base. Knows versions and what they were trained on, not names that clients use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from adreg.audit.findings import Verdict
from adreg.audit.subject import base_verdict
from adreg.errors import NotFoundError
from adreg.formats.bases.fingerprint import BaseIds
from adreg.references import Reference
from adreg.registry.perthread import PerThread
from adreg.registry.records import BaseRecord, VersionRecord
from adreg.registry.registry import Registry
from adreg.registry.versions import find_versions

LIVE = "deleted_at is null and yanked_at is null order by adapter.name, number desc"
# from each id of weights to the next by the index, not over all versions
ONE_OF_EACH = (
    "with recursive each_(weights) as (select min(weights_id) from version union all "
    "select (select min(weights_id) from version where weights_id > weights) from each_ where weights is not null) "
    "select weights, (select trained_on from version where weights_id = weights limit 1) from each_ where weights is not null"
)


@dataclass(frozen=True)
class Offer:
    """The versions that were trained on `base`; if there are `refs`, only those that they mean at the moment.

    `allow` are audit rules whose findings somebody takes upon himself for the versions of `refs`; `target` is the engine
    that the audit judges them for.
    """

    registries: PerThread
    base: BaseRecord
    refs: tuple[Reference, ...] = ()
    allow: frozenset[str] = frozenset()
    target: str = "adreg"

    @property
    def registry(self) -> Registry:
        """The registry of the calling thread."""
        return self.registries.registry()

    def names(self, version: VersionRecord) -> bool:
        """Whether one of `refs` means `version`, or there are none."""
        about = [ref for ref in self.refs if ref.name == version.adapter]
        return not self.refs or any(ref == Reference(ref.name) or self._means(ref, version) for ref in about)

    def fits(self, version: VersionRecord) -> bool:
        """Whether `version` belongs on the base; where a person named it, the audit is left to decide more of it."""
        return self.is_of_base(version.trained_on)

    def is_of_base(self, trained_on: BaseIds | None) -> bool:
        """Whether what was trained on a base with these ids belongs on this one, as `fits`."""
        verdict = base_verdict(self.base.card, trained_on)
        return verdict.fits or (bool(self.refs) and (bool(self.allow) or verdict is Verdict.QUANT_OF))

    def listed(self) -> list[VersionRecord]:
        """Every version that is offered, by name, the newest first. Of a large registry those of other bases are not read."""
        db = self.registry.db
        if self.refs:
            names = sorted({ref.name for ref in self.refs})
            found = find_versions(db, f"adapter.name in ({_marks(names)}) and {LIVE}", names)
        else:
            weights = self._weights()
            found = find_versions(db, f"version.weights_id in ({_marks(weights)}) and {LIVE}", weights)
        return [version for version in found if self.names(version) and self.fits(version)]

    def _weights(self) -> list[str]:
        """The weights that versions were trained on and that may be those of the base; the configuration is not compared."""
        rows = self.registry.db.execute(ONE_OF_EACH).fetchall()
        now = self.base.card.ids.cfg_id
        ids = {weights: replace(BaseIds(**json.loads(text)), cfg_id=now) for weights, text in rows}
        return [weights for weights, trained_on in ids.items() if self.is_of_base(trained_on)]

    def by_digest(self, digest: str) -> VersionRecord:
        """A version of this digest that is served. Raises `NotFoundError`, as when it was removed meanwhile."""
        for version in self.registry.adapters.by_digest(digest):
            if self.names(version) and self.fits(version):
                return version
        raise NotFoundError("model", digest)

    def _means(self, ref: Reference, version: VersionRecord) -> bool:
        try:
            return self.registry.adapters.resolve(ref).id == version.id
        except NotFoundError:
            return False


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))
