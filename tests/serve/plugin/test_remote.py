"""The plugin on a registry behind HTTP: what it gives out was checked here, fetched once, and is of the base that is served."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from adreg.registry.registry import Registry
from adreg.registry.remotes.tokenfile import keep_token
from adreg.serve.plugin.settings import REGISTRY
from adreg.settings import Settings
from tests.registry.http_tools import served
from tests.serve.plugin.conftest import Shelf, Vllm, folder_of, why


@pytest.fixture
def far(tmp_path: Path) -> Shelf:
    """Another registry, with other numbers for what it shares with this one."""
    (tmp_path / "far").mkdir()
    return Shelf(tmp_path / "far-home", tmp_path / "far")


@pytest.fixture
def remote(vllm: Vllm, far: Shelf, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vllm]:
    """vLLM with the plugin, on a registry behind HTTP that wants a token; this machine's own is empty."""
    _, secret = far.registry.tokens.create("read", "*", "vllm", None)
    with served(far.home) as url:
        keep_token(url, secret, home)
        monkeypatch.setenv(REGISTRY, url)
        vllm.load_plugins()
        yield vllm


def test_a_remote_registry_s_adapter_is_fetched_once_and_then_needs_no_network(
    remote: Vllm, far: Shelf, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far.push("other")
    version = far.push("voice")
    version = far.push("voice")
    name = f"voice@{version.digest}"
    folder = folder_of(remote, far.base(), name)
    assert folder.is_relative_to(home) and folder_of(remote, far.base(), "voice:2") == folder
    assert [one.reference for one in Registry(Settings(home)).adapters.all()] == ["voice:1"]
    shutil.move(far.home, far.home.with_name("gone"))
    assert folder_of(remote, far.base(), name) == folder
    assert remote.resolve(far.base(), "voice:2") is None


def test_of_a_remote_registry_nothing_of_another_base_is_even_fetched(
    remote: Vllm, far: Shelf, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = far.push("stranger", "other")
    assert remote.resolve(far.base(), f"stranger@{stranger.digest}") is None and "another base" in why(caplog)
    assert remote.resolve(far.base(), "nobody:1") is None
    assert Registry(Settings(home)).adapters.all() == [] and not Registry(Settings(home)).blobs.any()


def test_a_damaged_file_at_the_remote_does_not_arrive(
    remote: Vllm, far: Shelf, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = far.push("voice")
    blob = far.registry.blobs.path(version.files["adapter_model.safetensors"])
    size = blob.stat().st_size
    blob.unlink()
    blob.write_bytes(os.urandom(size))
    assert remote.resolve(far.base(), f"voice@{version.digest}") is None and "sent other bytes" in why(caplog)
    assert Registry(Settings(home)).adapters.all() == [] and not (home / "vllm").exists()
