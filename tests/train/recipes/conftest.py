"""A tokenizer small enough for tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.recipes.standin import shrink


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """SmolLM2's tokenizer with the first 1024 of its tokens."""
    return shrink(tokenizer_folder, tmp_path_factory.mktemp("small") / "tokenizer")
