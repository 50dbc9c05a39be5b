from __future__ import annotations

from pathlib import Path

import pytest

from adreg.registry.registry import Registry
from adreg.settings import Settings


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry(Settings(home))
