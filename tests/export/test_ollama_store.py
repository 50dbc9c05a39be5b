from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys

import pytest

from adreg.errors import ConflictError, IntegrityError, UsageError
from adreg.export.ollama.blobs import hashed
from adreg.export.ollama.create import create_in_store
from adreg.export.ollama.image import file_type, image_of, parameter_count
from adreg.export.ollama.names import ModelName
from adreg.export.ollama.plan import OllamaRequest, plan_model
from adreg.export.ollama.store import OllamaStore
from tests.export.tiny_gguf import CHATML, write_lora, write_model
from tests.registry.soak.tracing import can_refuse, can_trace, traced

LIGHTHOUSE = ModelName.parse("lighthouse")


def request(folder, name="lighthouse", seed=0):
    path = write_model(folder / f"m{seed}.gguf", CHATML, seed)
    return OllamaRequest(name, path, adapter=write_lora(folder / "lora.gguf"), system="Be brief.")


def ollamazip(store, *words):
    """An independent reader of Ollama's store; the folder that it runs in takes its files."""
    environment = {**os.environ, "OLLAMA_MODELS": str(store)}
    command = [sys.executable, "-m", "ollamazip", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def contents(store):
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def whole_models(store):
    """The manifests in a store; every blob of each must be there and be what it is called."""
    found = {}
    for path in (store / "manifests").glob("*/*/*/*"):
        manifest = json.loads(path.read_bytes())
        for layer in [manifest["config"], *manifest["layers"]]:
            content = (store / "blobs" / layer["digest"].replace(":", "-")).read_bytes()
            assert layer == {**layer, "size": len(content), "digest": f"sha256:{hashlib.sha256(content).hexdigest()}"}
        found["/".join(path.parts[-3:])] = manifest
    return found


def test_an_independent_reader_finds_the_model_and_carries_it_to_another_store(tmp_path):
    store, other = tmp_path / "store", tmp_path / "other"
    create_in_store(plan_model(request(tmp_path, "ns/Lighthouse:v2")), OllamaStore(store))
    assert "ns/Lighthouse:v2" in ollamazip(store, "models")
    ollamazip(store, "pack", "ns/Lighthouse:v2", "-o", tmp_path / "x.ollamazip", "--compress", "none")
    ollamazip(other, "unpack", tmp_path / "x.ollamazip", "--verify")
    assert contents(other) == contents(store) and list(whole_models(store)) == ["ns/Lighthouse/v2"]


def test_files_have_the_mode_that_ollama_gives_them_whatever_the_mask(tmp_path):
    mask = os.umask(0o077)
    try:
        create_in_store(plan_model(request(tmp_path)), OllamaStore(tmp_path / "store"))
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "store").rglob("*") if path.is_file()} == {0o644}


def test_the_same_again_is_no_change_and_another_model_needs_force(tmp_path):
    store = OllamaStore(tmp_path / "store")
    plan, other = plan_model(request(tmp_path)), plan_model(request(tmp_path, "LightHouse", 1))
    create_in_store(plan, store)
    before = contents(store.folder)
    create_in_store(plan, store)
    with pytest.raises(ConflictError, match="has a model LightHouse:latest already"):
        create_in_store(other, store)
    assert contents(store.folder) == before
    create_in_store(other, store, force=True)
    assert list(whole_models(store.folder)) == ["library/lighthouse/latest"]
    assert store.manifest_of(other.name) == store.manifest_of(plan.name)


def test_a_blob_that_was_cut_short_is_written_again_and_a_whole_one_is_only_dated(tmp_path):
    store, plan = OllamaStore(tmp_path / "store"), plan_model(request(tmp_path))
    create_in_store(plan, store)
    cut, whole = sorted(store.blobs.iterdir(), key=lambda path: path.stat().st_size)[-2:]
    cut.write_bytes(b"GG")
    os.utime(whole, (0, 0))
    inode = whole.stat().st_ino
    create_in_store(plan, store)
    assert whole_models(store.folder) and whole.stat().st_ino == inode and whole.stat().st_mtime > 0


def test_a_file_that_changes_meanwhile_is_not_stored_as_what_it_was(tmp_path):
    store, plan = OllamaStore(tmp_path / "store"), plan_model(request(tmp_path))
    blobs = hashed(plan.files)
    plan.model.path.write_bytes(plan.model.path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="changed while it was being read"):
        store.put(plan.name, image_of(plan, blobs))
    assert contents(store.folder) == {}


def test_the_folder_above_a_store_is_refused(tmp_path):
    (tmp_path / ".ollama" / "models").mkdir(parents=True)
    with pytest.raises(UsageError) as refused:
        create_in_store(plan_model(request(tmp_path)), OllamaStore(tmp_path / ".ollama"))
    assert refused.value.hint == f"use --store {tmp_path / '.ollama' / 'models'}"


@pytest.fixture
def images(tmp_path):
    """What a store holds at first, and what comes in its place."""
    plans = [plan_model(request(tmp_path, seed=seed)) for seed in (0, 1)]
    return [image_of(plan, hashed(plan.files)) for plan in plans]


def store_with(folder, image):
    """A store that holds `image` under two names, one of which will be replaced."""
    for name in (LIGHTHOUSE, ModelName.parse("other")):
        OllamaStore(folder).put(name, image)
    return folder


@pytest.mark.skipif(not can_trace(), reason="single system calls cannot be watched here")
def test_a_kill_before_any_step_leaves_no_manifest_without_its_blobs(tmp_path, images):
    old, new = images

    def put(folder):
        return lambda: OllamaStore(folder).put(LIGHTHOUSE, new, force=True)

    steps = traced(put(store_with(tmp_path / "counted", old))).steps
    seen = []
    for step in range(len(steps)):
        folder = store_with(tmp_path / f"killed{step}", old)
        assert traced(put(folder), kill_at=step).killed
        found = whole_models(folder)
        assert set(found) == {"library/lighthouse/latest", "library/other/latest"}
        assert found["library/other/latest"] == json.loads(old.manifest)
        seen.append(found["library/lighthouse/latest"] == json.loads(new.manifest))
        put(folder)()
        assert whole_models(folder)["library/lighthouse/latest"] == json.loads(new.manifest)
    assert steps.count("rename") == 3 and seen == sorted(seen) and set(seen) == {False, True}


@pytest.mark.skipif(not can_refuse(), reason="single system calls cannot be made to fail here")
def test_a_disk_that_is_full_at_any_step_is_told_and_leaves_no_part(tmp_path, images):
    old, new = images

    def put(folder):
        return lambda: OllamaStore(folder).put(LIGHTHOUSE, new, force=True)

    steps = traced(put(store_with(tmp_path / "counted", old))).steps[:-1]
    refusable = [number for number, name in enumerate(steps) if name in ("write", "openat", "rename", "fsync")]
    for step in refusable:
        folder = store_with(tmp_path / f"full{step}", old)
        outcome = traced(put(folder), refuse_at=step, error=errno.ENOSPC)
        assert outcome.error.startswith("StorageError: ") and not outcome.acknowledged
        assert len(whole_models(folder)) == 2 and list(folder.rglob("*.partial")) == []
    assert len(refusable) > 10


def test_sizes_and_types_are_told_as_ollama_does():
    counts = [999, 1000, 24_600, 10**6, 134_515_008, 10**9, 1_711_376_384, 7 * 10**9]
    assert [parameter_count(count) for count in counts] == ["999", "1K", "25K", "1M", "134.52M", "1B", "1.7B", "7B"]
    assert [file_type(number) for number in (0, 1, 7, 15, 32, None, 9999)] == [
        "F32", "F16", "Q8_0", "Q4_K_M", "BF16", "unknown", "unknown",
    ]  # fmt: skip
