"""The registry that llama.cpp is tested with, made once a session."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from adreg.settings import Settings
from tests.builders import build_adapter, build_checkpoint
from tests.serve.engines.llamashop import ADAPTERS, Shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Shop:
    import torch

    folder = tmp_path_factory.mktemp("llamacpp")
    changes: dict[str, Any] = {"initializer_range": 0.15, "max_position_embeddings": 4096, "dtype": torch.float32}
    base = build_checkpoint(folder / "base", "llama", tokenizer_folder, **changes)
    made = Shop(Settings(folder / "home"), folder)
    made.registry.bases.add(str(base), "tiny")
    for seed, (name, settings) in enumerate(ADAPTERS.items(), start=1):
        made.push(name, build_adapter(base, folder / name, seed, **settings))
    return made


@pytest.fixture
def changing(shop: Shop, tmp_path: Path) -> Shop:
    """A copy of `shop` for a test that pushes."""
    shutil.copytree(shop.settings.home, tmp_path / "home")
    return Shop(Settings(tmp_path / "home"), shop.folder)
