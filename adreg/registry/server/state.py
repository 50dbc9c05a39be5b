"""What handlers share: a registry for each worker thread (SQLite connections stay in theirs), limits, uploads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adreg.registry.perthread import PerThread
from adreg.registry.server.limits import Limits
from adreg.registry.server.uploads import Uploads
from adreg.settings import Settings


@dataclass(frozen=True)
class State(PerThread):
    """One server's registry folder and limits."""

    limits: Limits
    uploads: Uploads

    @classmethod
    def of(cls, settings: Settings, limits: Limits) -> State:
        return cls(settings, limits, Uploads(settings.home, limits))

    @property
    def home(self) -> Path:
        return self.settings.home
