"""Worlds that several tests look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.serve.general.worlds import World, build_world


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("general-llama"), "llama")


@pytest.fixture(scope="session")
def gemma2(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With windows and caps, and few layers."""
    changes = {"num_hidden_layers": 2, "sliding_window": 12}
    return build_world(tmp_path_factory.mktemp("general-gemma2"), "gemma2", "plain", "head", **changes)
