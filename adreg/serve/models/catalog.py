"""What clients ask for by name: the base, and adapters each by its digest. Knows names, not where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ServedModel:
    """What a client's `model` means at one moment, for good: `adapter` is a digest, or None for the base alone.

    `reference` is the version's own name, such as `sql:3`, and `rank` the adapter's, where it has one.
    """

    id: str
    base: str
    base_digest: str
    adapter: str | None
    reference: str | None = None
    rank: int | None = None

    @property
    def root(self) -> str:
        return self.adapter or self.base_digest

    @property
    def parent(self) -> str | None:
        return self.base if self.adapter else None

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of the base and, after them, twelve of the adapter."""
        return _short(self.base_digest) + (_short(self.adapter) if self.adapter else "")


class Catalog(Protocol):
    """The models of a server: iterated, the base first, then all that can be asked for now."""

    def __iter__(self) -> Iterator[ServedModel]: ...

    def resolve(self, name: str) -> ServedModel:
        """The model called `name` now. Raises `NotFoundError` ("model"), and `ConflictError` with the reason for an adapter
        that does not belong on this base; there is no fallback to the base."""
        ...


def _short(digest: str) -> str:
    return digest.rpartition(":")[2][:12]
