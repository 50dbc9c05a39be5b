"""A registry for each thread that asks: SQLite's connections stay in the thread that opened them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from adreg.registry.registry import Registry
from adreg.settings import Settings


@dataclass(frozen=True)
class PerThread:
    """Registries of one folder."""

    settings: Settings
    _threads: threading.local = field(default_factory=threading.local, init=False, repr=False, compare=False, kw_only=True)

    def registry(self) -> Registry:
        """The registry of the calling thread."""
        found: Registry | None = getattr(self._threads, "registry", None)
        if found is None:
            found = self._threads.registry = Registry(self.settings)
        return found
