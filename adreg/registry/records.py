"""What the registry hands out: frozen records, ready to be printed or turned to JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adreg.audit.basecard import BaseCard
from adreg.formats.fingerprint import BaseIds


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
            "ids": vars(self.card.ids),
            "added_at": self.added_at,
        }


@dataclass(frozen=True)
class VersionRecord:
    """An immutable version of an adapter. `summary` holds rank, alpha, targets and counts; `files` path -> digest."""

    id: int
    adapter: str
    number: int
    digest: str
    base: str | None
    trained_on: BaseIds | None
    summary: dict[str, Any]
    size: int
    run: str | None
    created_at: str
    aliases: tuple[str, ...]
    files: dict[str, str]
    tags: tuple[str, ...] = ()
    notes: str = ""
    origin: str = ""
    yanked: str | None = None

    @property
    def reference(self) -> str:
        return f"{self.adapter}:{self.number}"

    @property
    def short_digest(self) -> str:
        return short(self.digest)

    def as_json(self) -> dict[str, Any]:
        ids = vars(self.trained_on) if self.trained_on else None
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
            **self.summary,
            "size": self.size,
            "run": self.run,
            "files": self.files,
            "created_at": self.created_at,
        }


@dataclass(frozen=True)
class Event:
    """One line of an adapter's history."""

    at: str
    verb: str
    detail: dict[str, Any]


@dataclass(frozen=True)
class ArtifactRecord:
    """Something derived from a version: a merged checkpoint or a GGUF, with its proof if it was verified."""

    kind: str
    path: str
    digest: str
    size: int
    reference: str
    recipe: dict[str, Any]
    verification: dict[str, Any] | None
    created_at: str


def short(digest: str) -> str:
    """The first twelve hex digits of a digest or id."""
    return digest.partition(":")[2][:12]
