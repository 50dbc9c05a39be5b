"""What the registry hands out: frozen records, ready to be printed or turned to JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adreg.audit.basecard import BaseCard
    from adreg.formats.bases.fingerprint import BaseIds


@dataclass(frozen=True)
class BaseRecord:
    """A registered base: its card, and where its folder was when it was last seen."""

    id: int | None
    name: str
    folder: Path
    origin: str
    card: BaseCard
    added_at: str

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "folder": str(self.folder),
            "origin": self.origin,
            "architecture": self.card.architecture,
            "parameters": self.card.parameters,
            "dtype": self.card.dtype,
            "container": self.card.container,
            "quantisation": vars(self.card.quantisation) if self.card.quantisation else None,
            "relatives": [vars(relative) for relative in self.card.relatives],
            "ids": vars(self.card.ids),
            "added_at": self.added_at,
        }


@dataclass(frozen=True)
class VersionRecord:
    """An immutable version of an adapter. `stored` is its base's ids, its summary and its files as the database has them:
    JSON that is read when it is asked for, because a listing of thousands does not ask. `yanked` is the reason."""

    id: int
    adapter: str
    number: int
    digest: str
    base: str | None
    stored: tuple[str | None, str, str] = field(repr=False)
    size: int
    run: str | None
    created_at: str
    aliases: tuple[str, ...]
    tags: tuple[str, ...] = ()
    notes: str = ""
    origin: str = ""
    yanked: str | None = None

    @cached_property
    def trained_on(self) -> BaseIds | None:
        """The ids of the base that it was trained on."""
        from adreg.formats.bases.fingerprint import BaseIds

        text = self.stored[0]
        return BaseIds(**json.loads(text)) if text else None

    @property
    def weights_id(self) -> str | None:
        """The id of the weights that it was trained on."""
        return json.loads(self.stored[0])["weights_id"] if self.stored[0] else None

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Rank, alpha, targets and counts; versions of an older adreg lack the newer keys."""
        found: dict[str, Any] = json.loads(self.stored[1])
        return found

    @property
    def kind(self) -> str:
        """Its family and rank in a word: `LoRA r=8`, `IA3`."""
        family, rank = self.summary.get("family", "LoRA"), self.summary.get("rank")
        return f"{family} r={rank}" if rank else str(family)

    @cached_property
    def files(self) -> dict[str, str]:
        """The digest of each file by its name, sorted."""
        return dict(sorted(json.loads(self.stored[2]).items()))

    @property
    def reference(self) -> str:
        return f"{self.adapter}:{self.number}"

    @property
    def by_digest(self) -> str:
        """The reference that finds it whatever becomes of its number and aliases."""
        return f"{self.adapter}@{self.digest[:19]}"

    @property
    def short_digest(self) -> str:
        return short(self.digest)

    def as_json(self) -> dict[str, Any]:
        ids = json.loads(self.stored[0]) if self.stored[0] else None
        return {
            "reference": self.reference,
            "name": self.adapter,
            "version": self.number,
            "digest": self.digest,
            "aliases": list(self.aliases),
            "tags": list(self.tags),
            "notes": self.notes,
            "origin": self.origin,
            "yanked": self.yanked,
            "base": self.base,
            "trained_on": ids,
            **json.loads(self.stored[1]),
            "size": self.size,
            "run": self.run,
            "files": dict(sorted(json.loads(self.stored[2]).items())),
            "created_at": self.created_at,
        }


@dataclass(frozen=True)
class AliasRecord:
    """An alias: the version that it means, since when, and whether it moves only by force."""

    adapter: str
    name: str
    number: int
    protected: bool
    updated_at: str

    @property
    def alias(self) -> str:
        return f"{self.adapter}:{self.name}"

    @property
    def reference(self) -> str:
        return f"{self.adapter}:{self.number}"

    def as_json(self) -> dict[str, Any]:
        moment = {"protected": self.protected, "updated_at": self.updated_at}
        return {"alias": self.alias, "reference": self.reference, **moment}


@dataclass(frozen=True)
class Event:
    """One line of an adapter's history."""

    at: str
    verb: str
    detail: dict[str, Any]


@dataclass(frozen=True)
class ArtifactRecord:
    """Something derived from versions: a merged checkpoint or a GGUF, with its proof if it was verified.

    `sources` are the versions it was made of, each with reference, digest and weight; older records name one.
    """

    kind: str
    path: str
    digest: str
    size: int
    reference: str
    sources: tuple[dict[str, Any], ...]
    recipe: dict[str, Any]
    verification: dict[str, Any] | None
    created_at: str


def short(digest: str) -> str:
    """The first twelve hex digits of a digest or id."""
    return digest.partition(":")[2][:12]
