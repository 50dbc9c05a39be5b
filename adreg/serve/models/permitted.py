"""The catalog for an engine that does not ask the audit itself: each adapter is judged before its first request is let through.

Turns names into immutable versions; remembers which of those it has judged. Any thread may ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from adreg.audit.rules.readiness import highest_rank
from adreg.errors import ConflictError
from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.registry.records import VersionRecord
from adreg.serve.models.catalog import Catalog, ServedModel
from adreg.serve.models.registered import RegisteredModels
from adreg.serve.models.verified import VerifiedAdapters


@dataclass(frozen=True)
class PermittedModels(Catalog):
    """`models`, judged for the target of their offer; the engine has room for ranks up to `max_rank` (None: for any), and
    one tokenizer and chat template for all, the base's.

    `own_templates` are the digests of those judged so far that were trained with another chat template.
    """

    models: RegisteredModels
    max_rank: int | None = None
    own_templates: set[str] = field(default_factory=set, init=False, repr=False)
    _permitted: set[str] = field(default_factory=set, init=False, repr=False)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.models)

    def resolve(self, name: str) -> ServedModel:
        """As `RegisteredModels.resolve`. Raises `AuditRefused` too, `IntegrityError` for lost files, and `ConflictError` for
        a rank beyond the engine's and for a tokenizer of its own."""
        model = self.models.resolve(name)
        if model.adapter is not None and model.adapter not in self._permitted:
            version = self.models.offer.by_digest(model.adapter)
            adapters = VerifiedAdapters(self.models.offer)
            adapters.permit(version)
            self._require_room(version)
            self._compare(version, adapters.own_tokenizer(model.adapter))
            self._permitted.add(model.adapter)
        return model

    def _require_room(self, version: VersionRecord) -> None:
        if self.max_rank is None:
            return
        offer = self.models.offer
        rank = highest_rank(offer.registry.adapters.subject(version, offer.base.card, offer.target))
        if rank > self.max_rank:
            why = f"{version.reference} has rank {rank}; {offer.target} was started with room for rank {self.max_rank}"
            raise ConflictError(why, "start it again: it takes the rank that the adapters have then")

    def _compare(self, version: VersionRecord, own: TokenizerFiles | None) -> None:
        """Note a chat template other than the base's, refuse another tokenizer: prompts would become other tokens."""
        offer = self.models.offer
        if own is None:
            return
        if own.tok_id not in (None, offer.base.card.ids.tok_id):
            why = f"{version.reference} has a tokenizer of its own, and {offer.target} uses the base's for all"
            raise ConflictError(why, "adreg serve with its own engine takes it")
        if own.tpl_id not in (None, offer.base.card.ids.tpl_id):
            self.own_templates.add(version.digest)
