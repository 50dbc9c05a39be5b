"""`adreg merge` to everything that it writes: files that others read, parents that are recorded, and words that help."""

from __future__ import annotations

import json

import numpy as np
import pytest

from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.gguf.header import read_gguf


@pytest.fixture
def pushed(adreg, tiny_llama, llama_adapter, other_adapter):
    assert adreg("base", "add", tiny_llama, "--name", "tiny").code == 0
    for folder, name in ((llama_adapter, "one"), (other_adapter, "two")):
        assert adreg("push", folder, name, "--base", "tiny").code == 0
    return adreg


def test_two_adapters_become_a_third_that_names_its_parents(pushed, tmp_path):
    plan = pushed("merge", "one=0.7", "two=-0.3", "--to", "adapter", "-o", tmp_path / "both", "-n", "--json")
    assert plan.code == 0 and json.loads(plan.out)["method"] == "linear" and not (tmp_path / "both").exists()
    made = pushed("merge", "one=0.7", "two=-0.3", "--to", "adapter", "-o", tmp_path / "both", "--push", "both:new", "--json")
    assert made.code == 0 and json.loads(made.out)["reference"] == "both:1" and json.loads(made.out)["held"] > 0.9999
    shown = json.loads(pushed("show", "both:new", "--json").out)
    assert [(parent["reference"], parent["relation"]) for parent in shown["parents"]] == [
        ("one:1", "merged"),
        ("two:1", "merged"),
    ]
    assert shown["base"] == "tiny"
    assert "one:1" in pushed("log", "both", "--graph").out
    # both ways to the weights are the same sum
    assert pushed("merge", "both", "--to", "safetensors", "-o", tmp_path / "way", "--no-verify").code == 0
    direct = ["merge", "one=0.7", "two=-0.3", "--to", "safetensors", "-o", tmp_path / "direct", "--no-verify"]
    assert pushed(*direct).code == 0
    way, straight = open_checkpoint(tmp_path / "way"), open_checkpoint(tmp_path / "direct")
    for name, view in straight.items():
        np.testing.assert_allclose(way[name].float32(), view.float32(), atol=1e-2, rtol=2**-7)


def test_thinned_adapters_merge_into_the_weights_and_are_verified_there(pushed, tmp_path):
    made = pushed(
        "merge", "one", "two", "--method", "ties", "--density", "0.4", "--quant", "f32", "-o", tmp_path / "t", "--json"
    )
    assert made.code == 0, made.err
    told = json.loads(made.out)
    assert told["combination"] == {"method": "ties", "density": "0.4"}
    assert told["verification"]["passed"] and told["verification"]["max_delta_logprob"] < 0.005
    fields = read_gguf(next((tmp_path / "t").glob("*.gguf"))).fields
    assert fields["adreg.verify.max_delta_logprob"] == pytest.approx(told["verification"]["max_delta_logprob"], rel=1e-6)
    assert fields["adreg.merge.method"] == "ties"


def test_a_gguf_adapter_and_the_base_alone_are_partners(pushed, tmp_path):
    base = pushed("merge", "--base", "tiny", "--quant", "f16", "-o", tmp_path / "tiny.gguf", "--json")
    assert base.code == 0, base.err
    assert json.loads(base.out)["verification"]["adapter_effect"] is None
    lora = pushed("merge", "one", "--to", "gguf-lora", "-o", tmp_path / "lora", "--json")
    assert lora.code == 0, lora.err
    path = next((tmp_path / "lora").iterdir())
    assert path.name.endswith("-F32-LoRA.gguf") and json.loads(lora.out)["verification"]["passed"]
    fields = read_gguf(path).fields
    assert fields["general.type"] == "adapter" and fields["adreg.adapter.0.reference"] == "one:1"
    assert [one["kind"] for one in json.loads(pushed("show", "one", "--json").out)["artifacts"]] == ["gguf-lora"]
    assert "one:1" in pushed("trace", path).out
    assert pushed("audit", path, "--base", "tiny").code == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "nothing to merge"),
        (("one", "--to", "adapter"), "nothing to combine"),
        (("one", "two", "--method", "mean"), "'mean' is no method"),
        (("one", "two", "--method", "ties"), "--density"),
        (("one", "two", "--to", "gguf-lora"), "combine them first"),
        (("one", "--push", "x"), "makes nothing that can be pushed"),
        (("one", "--to", "safetensors", "--max-shard-size", "big"), "'big' is no size"),
        (("one", "--quant", "q9"), "'q9' is no type"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(words, why, pushed, tmp_path):
    refused = pushed("merge", *words, "-o", tmp_path / "out", "--no-verify")
    assert refused.code != 0 and why in refused.err and not (tmp_path / "out").exists()


def test_shards_of_a_size_are_written_with_their_index(pushed, tmp_path):
    words = ["merge", "one", "--to", "safetensors", "-o", tmp_path / "out", "--max-shard-size", "1MB", "--json"]
    made = pushed(*words)
    assert made.code == 0, made.err
    assert json.loads(made.out)["verification"]["passed"]
    assert len(open_checkpoint(tmp_path / "out").shards) > 1 and (tmp_path / "out" / "model.safetensors.index.json").exists()
