"""What of a registry is served on one base. Knows versions and what they were trained on, not names that clients use."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.audit.findings import Verdict
from adreg.audit.subject import base_verdict
from adreg.errors import NotFoundError
from adreg.references import Reference
from adreg.registry.perthread import PerThread
from adreg.registry.records import BaseRecord, VersionRecord
from adreg.registry.registry import Registry


@dataclass(frozen=True)
class Offer:
    """The versions that were trained on `base`; if there are `refs`, only those that they mean at the moment.

    `allow` are audit rules whose findings somebody takes upon himself for the versions of `refs`.
    """

    registries: PerThread
    base: BaseRecord
    refs: tuple[Reference, ...] = ()
    allow: frozenset[str] = frozenset()

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
        verdict = base_verdict(self.base.card, version.trained_on)
        return verdict.fits or (bool(self.refs) and (bool(self.allow) or verdict is Verdict.QUANT_OF))

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
