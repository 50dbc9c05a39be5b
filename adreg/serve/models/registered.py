"""The catalog of a registry, as it is at the moment of each question: what is pushed or moved now is served from now on.

Turns names into immutable versions; keeps none. Any thread may ask.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from adreg.audit.findings import AuditReport
from adreg.audit.policy import require
from adreg.audit.run import Speed, judge
from adreg.errors import AuditRefused, BadReference, ConflictError, NotFoundError, YankedError
from adreg.references import parse_reference
from adreg.registry.records import VersionRecord
from adreg.registry.versions import is_newest
from adreg.serve.models.catalog import Catalog, ServedModel
from adreg.serve.models.offer import Offer

BASE = "base"
log = logging.getLogger("adreg.serve")


@dataclass(frozen=True)
class RegisteredModels(Catalog):
    """The base, as `base` and by its own name, and the versions of `offer` by every reference that means them."""

    offer: Offer
    _warned: set[int] = field(default_factory=set, init=False, repr=False)

    def __iter__(self) -> Iterator[ServedModel]:
        yield self._base(self.offer.base.name)
        before = ""
        for version in self.offer.listed():
            first = version.adapter not in (before, *self._base_names)
            newest = first and is_newest(self.offer.registry.db, version)
            aliases = (f"{version.adapter}:{alias}" for alias in version.aliases)
            for name in (*([version.adapter] if newest else ()), version.reference, *aliases):
                yield self._model(name, version)
            before = version.adapter

    def resolve(self, name: str) -> ServedModel:
        """The model that `name` means now. Raises `NotFoundError`, `YankedError`, or `ConflictError`: with the audit's reason
        for an adapter of another base, and for a name that the base and an adapter share."""
        version = self._version(name)
        if version is None:
            return self._base(name)
        if name in self._base_names:
            others = " or ".join((version.reference, *sorted(self._base_names - {name})))
            raise ConflictError(f"{name!r} is the name of the base and of an adapter", f"ask for {others}")
        if not self.offer.fits(version):
            raise self._refusal(version)
        if version.yanked is not None and version.id not in self._warned:
            self._warned.add(version.id)
            log.warning("%s is served by its digest; it was yanked: %s", version.reference, version.yanked)
        return self._model(name, version)

    @property
    def _base_names(self) -> frozenset[str]:
        return frozenset((BASE, self.offer.base.name))

    def _version(self, name: str) -> VersionRecord | None:
        """The version that `name` means, None where only the base is called so."""
        try:
            version = self.offer.registry.adapters.resolve(parse_reference(name))
            if self.offer.names(version):
                return version
            near = [str(ref) for ref in self.offer.refs]
        except YankedError:
            raise
        except NotFoundError as error:
            near = list(error.close)
        except BadReference:
            near = []
        if name in self._base_names:
            return None
        raise NotFoundError("model", name, difflib.get_close_matches(name, [*near, self.offer.base.name], 3, 0.3))

    def _refusal(self, version: VersionRecord) -> ConflictError:
        """Why `version` does not belong on the base, in the audit's words."""
        adapters, base = self.offer.registry.adapters, self.offer.base
        report: AuditReport = judge(adapters.subject(version, base.card, self.offer.target), Speed.HEADER)
        try:
            require("serve", version.reference, report)
        except AuditRefused as refused:
            return refused
        why = f"{version.reference} was trained on another base than {base.name} ({report.verdict.value})"
        return ConflictError(why, f"to serve it here all the same, name it: adreg serve --base {base.name} {version.reference}")

    def _base(self, name: str) -> ServedModel:
        return ServedModel(name, self.offer.base.name, self.offer.base.card.digest, None)

    def _model(self, name: str, version: VersionRecord) -> ServedModel:
        base, rank = self.offer.base, version.summary.get("rank")
        return ServedModel(name, base.name, base.card.digest, version.digest, version.reference, rank)


@dataclass(frozen=True)
class Pins(Collection[str]):
    """The digests that `names` mean at the moment; a name that means nothing now pins nothing."""

    catalog: Catalog
    names: Sequence[str]

    def __iter__(self) -> Iterator[str]:
        for name in self.names:
            try:
                digest = self.catalog.resolve(name).adapter
            except (NotFoundError, ConflictError):
                continue
            if digest is not None:
                yield digest

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, digest: object) -> bool:
        return any(digest == one for one in self)
