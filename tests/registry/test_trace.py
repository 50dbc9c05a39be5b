import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from gguf import GGUFWriter
from safetensors.numpy import load_file, save_file

from adreg.errors import NotFoundError
from adreg.registry.artifacts import Derived
from adreg.registry.evidence import CLAIMED, PROVEN
from adreg.registry.push import plan_push
from adreg.registry.trace import trace
from tests.registry.small import recorded, small_adapter, small_base

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def version(registry, tmp_path):
    folder = small_adapter(tmp_path / "voice", 1, record=recorded())
    return registry.adapters.push(plan_push(folder), "voice", None, None).version


def told(found):
    return [(match.kind, match.reference, match.certainty) for match in found.matches]


def test_a_copied_file_is_known_by_its_bytes(registry, version, tmp_path):
    copy = shutil.copy(tmp_path / "voice" / WEIGHTS, tmp_path / "unnamed.bin")
    assert "tensors id" in trace(registry, tmp_path / "unnamed.bin").inside
    found = trace(registry, tmp_path / "unnamed.bin")
    assert copy and told(found) == [("version", "voice:1", PROVEN)] and WEIGHTS in found.matches[0].evidence


@pytest.mark.parametrize("older", [False, True])
def test_an_adapter_that_was_saved_again_is_known_by_its_tensors(registry, version, tmp_path, older):
    if older:  # as it was stored before versions had this id
        registry.db.execute("drop trigger version_is_immutable")
        registry.db.execute("update version set summary = json_remove(summary, '$.tensors')")
    tensors = load_file(tmp_path / "voice" / WEIGHTS)
    save_file(dict(reversed(tensors.items())), tmp_path / "again.safetensors", {"saved": "again", "by": "somebody"})
    found = trace(registry, tmp_path / "again.safetensors")
    assert told(found) == [("version", "voice:1", PROVEN)] and "tensors" in found.matches[0].evidence
    next(iter(tensors.values()))[0, 0] += 1
    save_file(tensors, tmp_path / "changed.safetensors")
    assert told(trace(registry, tmp_path / "changed.safetensors")) == []


def test_an_adapter_folder_is_known_with_its_run(registry, version, tmp_path):
    found = trace(registry, tmp_path / "voice")
    assert found.form == "adapter folder"
    assert told(found) == [("version", "voice:1", PROVEN), ("made by run", version.run, CLAIMED)]
    assert "all its files" in found.matches[0].evidence
    (tmp_path / "voice" / "adapter_config.json").write_text("{}")
    assert "adapter_config.json differ" in trace(registry, tmp_path / "voice").matches[0].evidence


def gguf(path, fields):
    writer = GGUFWriter(path, "llama")
    for key, value in fields.items():
        writer.add_string(key, value)
    writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_known_by_its_bytes_or_by_what_it_says(registry, version, tmp_path):
    ids = {"adreg.adapter.0.digest": version.digest, "adreg.adapter.0.reference": "voice:1"}
    strange = {"adreg.adapter.1.digest": "sha256:" + "0" * 64, "adreg.adapter.1.reference": "other:4"}
    path = gguf(tmp_path / "model.gguf", {**ids, **strange})
    found = trace(registry, path)
    assert told(found) == [("made from version", "voice:1", CLAIMED), ("made from version", "other:4", CLAIMED)]
    assert "no such version" in found.matches[1].evidence and found.inside["general.architecture"] == "llama"
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    registry.artifacts.add([(version, 1.0)], Derived("gguf", "/gone.gguf", digest, path.stat().st_size, {}, None))
    assert told(trace(registry, path))[0] == ("artifact of", "voice:1", PROVEN)


def test_a_base_is_known_whole_by_a_file_or_by_its_values(registry, tmp_path):
    base = small_base(tmp_path / "base")
    registry.bases.add(str(base), "tiny")
    assert told(trace(registry, base)) == [("base", "tiny", PROVEN)]
    assert told(trace(registry, base / "model.safetensors")) == [("base file", "tiny", PROVEN)]
    other = small_base(tmp_path / "other", seed=5)
    assert told(trace(registry, other)) == [] and told(trace(registry, other / "model.safetensors")) == []


def test_a_merged_checkpoint_says_what_went_into_it(registry, version, tmp_path):
    folder = small_base(tmp_path / "merged", seed=3)
    record = {"adapter.0.digest": version.digest, "adapter.0.reference": "voice:1", "base.weights_id": "b3:" + "9" * 64}
    (folder / "adreg.json").write_text(json.dumps(record))
    assert told(trace(registry, folder)) == [("made from version", "voice:1", CLAIMED)]


def test_what_is_damaged_or_unknown_is_said_and_never_raises(registry, version, tmp_path):
    cut = (tmp_path / "voice" / WEIGHTS).read_bytes()[:-3]
    (tmp_path / "cut.safetensors").write_bytes(cut)
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + b"\xff" * 60)
    (tmp_path / "empty").write_bytes(b"")
    for name in ("cut.safetensors", "cut.gguf", "empty"):
        found = trace(registry, tmp_path / name)
        assert found.matches == () and ("damaged" in found.inside) == name.startswith("cut")
    (tmp_path / "half").mkdir()
    for text in ("{}", "[", '{"architectures": ["X"], "model_type": "llama"}'):
        (tmp_path / "half" / "config.json").write_text(text)
        found = trace(registry, tmp_path / "half")
        assert found.matches == () and "damaged" in found.inside, text
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "nowhere"):
        with pytest.raises(NotFoundError):
            trace(registry, tmp_path / name)
