"""What handlers share: a registry for each worker thread (SQLite connections stay in theirs), limits, uploads."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from adreg.registry.registry import Registry
from adreg.registry.server.limits import Limits
from adreg.registry.server.uploads import Uploads
from adreg.settings import Settings


@dataclass(frozen=True)
class State:
    """One server's registry folder and limits."""

    settings: Settings
    limits: Limits
    uploads: Uploads
    _threads: threading.local = field(default_factory=threading.local)

    @classmethod
    def of(cls, settings: Settings, limits: Limits) -> State:
        return cls(settings, limits, Uploads(settings.home, limits))

    @property
    def home(self) -> Path:
        return self.settings.home

    def registry(self) -> Registry:
        """The registry of the calling thread."""
        found: Registry | None = getattr(self._threads, "registry", None)
        if found is None:
            found = self._threads.registry = Registry(self.settings)
        return found
