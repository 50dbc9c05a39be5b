"""What is served under which name: the base and its adapters, each by digest. Knows names, not weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adreg.errors import ConflictError, NotFoundError
from adreg.formats.adapters.adapter import Adapter


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter to be served as `name` and as each of `aliases`; `digest` is its identity inside the engine."""

    name: str
    adapter: Adapter
    digest: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServedModel:
    """What a client's `model` stands for. `adapter` is the digest of the adapter, or None for the base alone."""

    id: str
    base: str
    base_digest: str
    adapter: str | None

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


class Catalog:
    """The served models by id: the base first, then every adapter's name and its aliases."""

    def __init__(self, base: str, base_digest: str, adapters: Sequence[ServedAdapter]) -> None:
        self.models = {base: ServedModel(base, base, base_digest, None)}
        for adapter in adapters:
            for name in (adapter.name, *adapter.aliases):
                if name in self.models:
                    raise ConflictError(f"two models are called {name!r}", "serve one of them under another name")
                self.models[name] = ServedModel(name, base, base_digest, adapter.digest)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.models.values())

    def resolve(self, name: str) -> ServedModel:
        """The model called `name`. Raises `NotFoundError`; there is no fallback to the base."""
        found = self.models.get(name)
        if found is None:
            raise NotFoundError("model", name, difflib.get_close_matches(name, self.models, 3))
        return found


def _short(digest: str) -> str:
    return digest.rpartition(":")[2][:12]
