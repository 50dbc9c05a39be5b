"""Which adapters vLLM gets: those of the very base that it serves, whole, by names that cannot come to mean another."""

from __future__ import annotations

import shutil
import stat
import threading
from pathlib import Path

import huggingface_hub.constants
import pytest

from adreg.references import parse_reference
from adreg.serve.plugin.settings import REGISTRY
from tests.serve.plugin.conftest import Shelf, Vllm, folder_of, why

FILES = {"adapter_config.json", "adapter_model.safetensors"}
HOSTILE = [
    "", "voice/../../etc", "/etc/passwd", "..", "voice:1\n", "VOICE:1", "voice@sha256:" + "0" * 11, "voice:1; rm", "voice\0:1",
    "a" * 10_000, "voice:99999999999999999999", "\ud800", "voice@sha256:%", "https://example.org/voice",
]  # fmt: skip


def test_every_immutable_reference_is_the_same_folder_with_the_adapter_s_two_files(local: Vllm, shelf: Shelf) -> None:
    version = shelf.push("team/voice")
    names = ["team/voice:1", f"team/voice@{version.digest}", f"team/voice@{version.digest[:19]}"]
    (folder,) = {folder_of(local, shelf.base(), name) for name in names}
    assert {path.name for path in folder.iterdir()} == FILES
    for name in FILES:
        assert (folder / name).read_bytes() == shelf.registry.blobs.path(version.files[name]).read_bytes()
        assert not stat.S_IMODE((folder / name).stat().st_mode) & 0o222


def test_what_is_pushed_while_vllm_runs_is_there_at_once(local: Vllm, shelf: Shelf) -> None:
    first = folder_of(local, shelf.base(), shelf.push("voice").reference)
    second = folder_of(local, shelf.base(), shelf.push("voice").reference)
    assert first != second and first.is_dir()


def test_names_that_may_move_are_refused_unless_somebody_asked_for_them(
    vllm: Vllm, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    version = shelf.push("voice", alias="prod")
    monkeypatch.setenv(REGISTRY, "local")
    vllm.load_plugins()
    for name in ("voice", "voice:prod"):
        assert vllm.resolve(shelf.base(), name) is None
        assert "may mean another version tomorrow" in why(caplog) and "ADREG_VLLM_MUTABLE=1" in why(caplog)
    vllm.resolvers.LoRAResolverRegistry.resolvers.clear()
    monkeypatch.setenv("ADREG_VLLM_MUTABLE", "1")
    vllm.load_plugins()
    assert {folder_of(vllm, shelf.base(), name).name for name in ("voice", "voice:prod")} == {version.digest[7:]}


def test_the_base_is_known_by_its_bytes_and_not_by_its_name(
    local: Vllm, shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    voice, stranger = shelf.push("voice"), shelf.push("stranger", "other")
    copy = shutil.copytree(shelf.base(), tmp_path / "renamed")
    assert folder_of(local, copy, voice.reference)
    assert local.resolve(copy, stranger.reference) is None
    assert "B-ID-1" in why(caplog) and "other weights" in why(caplog)
    impostor = shutil.copytree(shelf.base("other"), tmp_path / "elsewhere" / "tiny")
    assert local.resolve(impostor, voice.reference) is None
    assert folder_of(local, impostor, stranger.reference)


def test_a_base_by_its_hub_id_is_the_one_revision_in_the_cache(
    local: Vllm, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--org--tiny"
    for commit, base in (("a" * 40, "tiny"), ("b" * 40, "other")):
        shutil.copytree(shelf.base(base), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    voice = shelf.push("voice")
    assert local.resolve("org/tiny", voice.reference) is None
    assert "2 revisions of org/tiny" in why(caplog) and "ADREG_VLLM_BASE" in why(caplog)
    shutil.rmtree(repository / "snapshots" / ("b" * 40))
    assert folder_of(local, "org/tiny", voice.reference)
    assert local.resolve("org/unknown", voice.reference) is None and "org/unknown" in why(caplog)


def test_hostile_names_are_nobody_s_adapter(local: Vllm, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    shelf.push("voice")
    before = {path for path in shelf.home.rglob("*") if path.is_dir()}
    for name in HOSTILE:
        assert local.resolve(shelf.base(), name) is None
        assert len(why(caplog)) < 800 and "\n" not in why(caplog) and not caplog.records[-1].exc_info
    assert len(caplog.records) == len(HOSTILE)
    assert {path for path in shelf.home.rglob("*") if path.is_dir()} == before


def test_what_vllm_cannot_apply_is_refused_with_the_audit_s_reason(
    vllm: Vllm, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(REGISTRY, "local")
    monkeypatch.setenv("ADREG_VLLM_MAX_LORA_RANK", "8")
    vllm.load_plugins()
    shelf.push("dora", use_dora=True, lora_bias=True)
    shelf.push("large", rank=12)
    assert vllm.resolve(shelf.base(), "dora:1") is None and "X-ENG-2" in why(caplog)
    assert vllm.resolve(shelf.base(), "large:1") is None and "rank 12; vllm was started with room for rank 8" in why(caplog)


def test_a_yanked_version_is_there_by_its_digest_only(local: Vllm, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    version = shelf.push("voice")
    shelf.registry.labels.yank(parse_reference("voice:1"), "biased")
    assert local.resolve(shelf.base(), "voice:1") is None and "yanked: biased" in why(caplog)
    assert folder_of(local, shelf.base(), f"voice@{version.digest}")


def test_a_damaged_blob_is_not_served_and_a_damaged_folder_is_made_anew(
    local: Vllm, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    version = shelf.push("voice")
    folder = folder_of(local, shelf.base(), "voice:1")
    weights = folder / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert folder_of(local, shelf.base(), "voice:1") == folder and weights.read_bytes() == good
    (folder / "more").write_text("x")
    assert folder_of(local, shelf.base(), "voice:1") == folder and {path.name for path in folder.iterdir()} == FILES
    shutil.rmtree(folder)
    blob = shelf.registry.blobs.path(version.files["adapter_model.safetensors"])
    blob.unlink()
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert local.resolve(shelf.base(), "voice:1") is None and "is damaged" in why(caplog)
    assert not folder.exists() and not list((shelf.home / "vllm").iterdir())


def test_many_that_ask_at_once_get_one_whole_folder(local: Vllm, shelf: Shelf) -> None:
    version, found = shelf.push("voice"), []
    names = ["voice:1", f"voice@{version.digest}", f"voice@{version.digest[:19]}"] * 4
    askers = [threading.Thread(target=lambda name=name: found.append(local.resolve(shelf.base(), name))) for name in names]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len({one.lora_path for one in found if one}) == 1 and None not in found
    assert [path.name for path in (shelf.home / "vllm").iterdir()] == [version.digest[7:]]
