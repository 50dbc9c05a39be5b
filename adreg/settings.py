"""Where adreg keeps its things. Knows the environment, nothing else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """`home` holds `adreg.db`, `blobs/`, `tmp/` and what `adreg demo` makes."""

    home: Path

    @classmethod
    def from_environment(cls) -> Settings:
        """`ADREG_HOME`, or else the platform's data folder."""
        chosen = os.environ.get("ADREG_HOME")
        if chosen:
            return cls(Path(chosen).expanduser().absolute())
        import platformdirs

        return cls(Path(platformdirs.user_data_dir("adreg", appauthor=False)))

    @property
    def database(self) -> Path:
        return self.home / "adreg.db"
