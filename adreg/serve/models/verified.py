"""From a digest to the adapter itself: every byte hashed, the audit asked, opened from content-addressed files.

Slow, and for any thread; remembers nothing but what was allowed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from adreg.audit.policy import Decision, require
from adreg.audit.run import Speed, judge
from adreg.errors import IntegrityError
from adreg.formats.adapters.adapter import Adapter
from adreg.formats.text.tokenizer import FILES as TOKENIZER_FILES
from adreg.formats.text.tokenizer import TokenizerFiles, stored_tokenizer
from adreg.registry.records import VersionRecord
from adreg.serve.models.offer import Offer

log = logging.getLogger("adreg.serve")


@dataclass(frozen=True)
class VerifiedAdapters:
    """The adapters of `offer` by digest."""

    offer: Offer
    _allowed: set[int] = field(default_factory=set, init=False, repr=False)

    def open(self, digest: str) -> tuple[str, Adapter]:
        """The reference and the adapter. Raises `NotFoundError`, `IntegrityError` for files that are damaged or cannot be
        read, `AuditRefused`, `FormatError`, and `UnsupportedError` for another family."""
        version = self.offer.by_digest(digest)
        self._check_files(version, version.files)
        self.permit(version)
        return version.reference, self.offer.registry.adapters.open(version)

    def own_tokenizer(self, digest: str) -> TokenizerFiles | None:
        """The adapter's own tokenizer and chat template, where it has some. Raises what `open` raises for files."""
        version = self.offer.by_digest(digest)
        names = [name for name in version.files if name in TOKENIZER_FILES]
        self._check_files(version, names)
        blobs = self.offer.registry.blobs
        return stored_tokenizer({name: blobs.path(version.files[name]) for name in names})

    def permit(self, version: VersionRecord) -> Decision:
        """What the audit says of serving `version`; what was allowed is written into its history once.

        Raises `AuditRefused`. Every value of it is looked at, but no spectra and no other adapters: those forbid nothing.
        """
        adapters = self.offer.registry.adapters
        subject = adapters.subject(version, self.offer.base.card, self.offer.target)
        report = judge(replace(subject, registry=replace(subject.registry, neighbours=())), Speed.VALUES)
        decision = require("serve", version.reference, report, self.offer.allow)
        if decision.allowed and version.id not in self._allowed:
            self._allowed.add(version.id)
            adapters.remember(version, decision)
            for finding in decision.allowed:
                log.warning("%s: %s allowed: %s", version.reference, finding.rule, finding.message)
        return decision

    def _check_files(self, version: VersionRecord, names: Collection[str]) -> None:
        try:
            for name in names:
                self.offer.registry.blobs.check(version.files[name])
        except OSError as error:
            raise IntegrityError(f"a file of {version.reference} cannot be read: {error.strerror}") from error
