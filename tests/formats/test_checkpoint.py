import json
import shutil

import pytest
import torch

from adreg.errors import FormatError, NotFoundError, PickleRefused
from adreg.formats.bases.checkpoint import open_checkpoint
from tests.builders import build_checkpoint


@pytest.fixture
def sharded(tmp_path):
    return build_checkpoint(tmp_path / "sharded", "llama", None, shards=3, vocab_size=512)


def test_shards_hold_what_one_file_holds(sharded, tmp_path):
    single = build_checkpoint(tmp_path / "single", "llama", None, vocab_size=512)
    one, many = open_checkpoint(single), open_checkpoint(sharded)
    assert len(many.shards) > 1 and set(one) == set(many)
    assert all(bytes(one[name].data) == bytes(many[name].data) for name in one)


def test_a_missing_shard_is_named(sharded):
    lost = sorted(sharded.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(FormatError, match=lost.name) as caught:
        open_checkpoint(sharded)
    assert caught.value.rule == "B-IDX-3"


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "model.bin"])
def test_an_index_cannot_point_out_of_its_folder(sharded, shard):
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][next(iter(content["weight_map"]))] = shard
    index.write_text(json.dumps(content))
    with pytest.raises(FormatError) as caught:
        open_checkpoint(sharded)
    assert caught.value.rule == "B-IDX-2"


def test_an_index_that_lies_about_a_tensor_is_refused(sharded):
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    name = next(iter(content["weight_map"]))
    content["weight_map"]["model.ghost"] = content["weight_map"][name]
    index.write_text(json.dumps(content))
    with pytest.raises(FormatError, match="ghost"):
        open_checkpoint(sharded)


def test_a_pickle_is_never_opened(tiny_llama, tmp_path):
    shutil.copy(tiny_llama / "config.json", tmp_path)
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (ran.write_text, ("boom",))

    torch.save(Bomb(), tmp_path / "pytorch_model.bin")
    with pytest.raises(PickleRefused):
        open_checkpoint(tmp_path)
    assert not ran.exists()


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path):
    with pytest.raises(FormatError, match=r"config\.json"):
        open_checkpoint(tmp_path)
    with pytest.raises(NotFoundError):
        open_checkpoint(tmp_path / "nowhere")
