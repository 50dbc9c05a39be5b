"""Models that other tools downloaded: ModelScope's folders and the hub's cache, without a network."""

from __future__ import annotations

import pytest

from adreg.errors import RemoteError
from adreg.registry.cached import cached_folder
from adreg.registry.sources import resolve_source


def modelscope(root, folder):
    place = root / folder
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    return place


@pytest.mark.parametrize("folder", ["hub/models/Qwen/Qwen2___5-0___5B-Instruct", "models/Qwen/Qwen2.5-0.5B-Instruct"])
def test_a_modelscope_download_is_found_by_the_model_s_own_name(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    assert cached_folder("Qwen/Qwen2.5-0.5B-Instruct") is None
    place = modelscope(tmp_path, folder)
    assert cached_folder("Qwen/Qwen2.5-0.5B-Instruct") == place
    source = resolve_source("Qwen/Qwen2.5-0.5B-Instruct", tmp_path)
    assert (source.folder, source.name) == (place, "qwen2-5-0-5b-instruct")
    assert resolve_source(str(place), tmp_path).name == "qwen2-5-0-5b-instruct"


def test_a_model_that_is_nowhere_is_a_remote_error(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    with pytest.raises(RemoteError, match="cache lacks it"):
        resolve_source("nobody/nothing", tmp_path)
