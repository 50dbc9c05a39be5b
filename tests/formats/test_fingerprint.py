"""Metamorphic: every change to a checkpoint moves exactly the ids that it should."""

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from adreg.formats.checkpoint import open_checkpoint
from adreg.formats.fingerprint import FileKey, Leaf, fingerprint
from tests.builders import build_checkpoint

ALL = {"arch_id", "weights_id", "content_id", "values_id", "cfg_id", "tok_id", "tpl_id"}


def ids(folder, cache=None):
    return vars(fingerprint(open_checkpoint(folder), cache)[0])


def moved(one, two):
    return {name for name in ALL if one[name] != two[name]}


@pytest.fixture(scope="module")
def original(tmp_path_factory, tokenizer_folder):
    return build_checkpoint(tmp_path_factory.mktemp("original") / "base", "llama", tokenizer_folder, vocab_size=300)


@pytest.fixture
def copy(original, tmp_path):
    return shutil.copytree(original, tmp_path / "copy")


def rewrite(folder, change, metadata=None):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors = change(tensors) or tensors
    path.unlink()
    save_file(tensors, path, metadata)
    return folder


def configure(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_all_ids_are_there_and_repeat(original, copy):
    assert all(ids(original).values()) and moved(ids(original), ids(copy)) == set()


@pytest.mark.parametrize("shards", [2, 3, 5, 8])
def test_sharding_moves_nothing(original, tmp_path, tokenizer_folder, shards):
    again = build_checkpoint(tmp_path / "sharded", "llama", tokenizer_folder, shards=shards, vocab_size=300)
    assert len(open_checkpoint(again).shards) > 1 and moved(ids(original), ids(again)) == set()


def test_order_and_metadata_move_nothing(original, copy):
    again = rewrite(copy, lambda tensors: dict(reversed(tensors.items())), {"format": "pt", "made": "elsewhere"})
    assert moved(ids(original), ids(again)) == set()


def test_a_prefix_moves_only_the_strict_id(original, copy):
    again = rewrite(copy, lambda tensors: {f"language_model.{name}": value for name, value in tensors.items()})
    assert moved(ids(original), ids(again)) == {"weights_id"}


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_a_lossless_cast_keeps_the_values(copy, kind):
    # what float16 cannot hold exactly is taken out first
    plain = ids(rewrite(copy, lambda tensors: {name: value * (value.abs() > 1e-4) for name, value in tensors.items()}))
    again = rewrite(copy, lambda tensors: {name: value.to(kind) for name, value in tensors.items()})
    assert moved(plain, ids(again)) == {"weights_id", "content_id"}


def test_writing_out_a_tied_head_moves_only_the_strict_id(original, copy):
    def untie(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    assert moved(ids(original), ids(rewrite(copy, untie))) == {"weights_id"}


def test_one_flipped_bit_moves_every_weight_id(original, copy):
    def flip(tensors):
        tensors["model.layers.1.mlp.down_proj.weight"].view(torch.int16)[7, 9] ^= 1

    assert moved(ids(original), ids(rewrite(copy, flip))) == {"weights_id", "content_id", "values_id"}


def test_swapping_two_tensors_of_one_shape_is_noticed(original, copy):
    def swap(tensors):
        gate, up = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"
        tensors[gate], tensors[up] = tensors[up], tensors[gate]

    assert moved(ids(original), ids(rewrite(copy, swap))) == {"weights_id", "values_id"}


ROPE = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
MATTERS = [{"num_attention_heads": 2}, {"rms_norm_eps": 2e-6}, {"hidden_act": "gelu"}, ROPE, {"new_thing": 3}]


@pytest.mark.parametrize("change", MATTERS)
def test_a_number_that_matters_moves_cfg_id_alone(original, copy, change):
    assert moved(ids(original), ids(configure(copy, **change))) == {"cfg_id"}


def test_bookkeeping_and_spelling_of_the_configuration_move_nothing(original, copy):
    config = json.loads((copy / "config.json").read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    config |= {
        "rope_theta": theta,
        "torch_dtype": "float32",
        "transformers_version": "4.0",
        "_name_or_path": "x",
        "rms_norm_eps": 9.999999974752427e-07,
    }
    (copy / "config.json").write_text(json.dumps(config))
    assert moved(ids(original), ids(copy)) == set()


def test_one_vocabulary_entry_moves_tok_id_alone(original, copy):
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["Ġzebra!"] = content["model"]["vocab"].pop(next(reversed(content["model"]["vocab"])))
    path.write_text(json.dumps(content))
    assert moved(ids(original), ids(copy)) == {"tok_id"}


def test_the_template_counts_but_not_its_line_ends_or_its_place(original, copy):
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template.replace("\n", "\r\n") + "\n\n"}))
    assert moved(ids(original), ids(copy)) == set()
    (copy / "chat_template.jinja").write_text(template.replace("user", "User") + " ")
    path.write_text(json.dumps({"eos_token": "<|im_end|>"}))
    assert moved(ids(original), ids(copy)) == ({"tpl_id"} if "user" in template else set())


class Memory(dict[FileKey, dict[str, Leaf]]):
    def put(self, key, leaves):
        self[key] = leaves


def test_the_cache_is_used_until_the_file_changes_and_never_for_a_young_file(copy):
    cache = Memory()
    before = ids(copy, cache)
    assert not cache, "a file younger than the clock's grain must not be cached"
    time.sleep(2.1)
    ids(copy, cache)
    ((key, leaves),) = cache.items()
    cache[key] = dict.fromkeys(leaves, Leaf("0" * 64, "0" * 64))
    assert ids(copy, cache)["weights_id"] != before["weights_id"], "the cache was not used"
    rewrite(copy, lambda tensors: None)
    assert ids(copy, cache)["weights_id"] == before["weights_id"], "a changed file must be read again"
