from __future__ import annotations

import pytest

from adreg.export.plan import MergeRequest
from adreg.formats.gguf.header import read_gguf
from tests.builders import build_adapter, build_checkpoint
from tests.export.merging import merge, peft_merged
from tests.export.oracle import convert, needs_oracle

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
OURS = ("adreg.", "general.base_model.", "GGUF.")
CASES = {
    "tied-linear-rope-padded-vocabulary": ("f16", {"rope_parameters": LINEAR, "vocab_size": 49160}),
    # rows of 168 do not divide into blocks of 32
    "untied-llama3-rope-biases-shards": (
        "q8_0",
        {"tie_word_embeddings": False, "rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True, "shards": 3,
         "intermediate_size": 168, "head_dim": 32, "num_hidden_layers": 11},
    ),
}  # fmt: skip


@needs_oracle
@pytest.mark.parametrize(("quant", "changes"), CASES.values(), ids=CASES.keys())
def test_compat_is_byte_for_byte_what_peft_and_the_converter_make(quant, changes, tokenizer_folder, tmp_path):
    base = build_checkpoint(tmp_path / "base", "llama", tokenizer_folder, **changes)
    adapter = build_adapter(base, tmp_path / "adapter", seed=7, use_rslora=True)
    ours = merge(base, adapter, output=tmp_path / "ours.gguf", quant=quant, precision="compat", name="Their Name")
    peft_merged(base, adapter).save_pretrained(tmp_path / "Their-Name")
    for file in tokenizer_folder.iterdir():
        (tmp_path / "Their-Name" / file.name).write_bytes(file.read_bytes())
    mine, theirs = read_gguf(ours.path), read_gguf(convert(tmp_path / "Their-Name", tmp_path / "theirs.gguf", quant))

    assert mine.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        own = mine.tensors[name]
        assert (own.dtype, own.shape) == (tensor.dtype, tensor.shape), name
        assert own.data == tensor.data, name
    fields = {key: value for key, value in mine.fields.items() if not key.startswith(OURS)}
    expected = {key: value for key, value in theirs.fields.items() if not key.startswith(OURS)}
    # adreg always says whether texts begin with a special token; the converter leaves it to llama.cpp's default
    expected.setdefault("tokenizer.ggml.add_bos_token", False)
    assert fields == expected


def test_the_same_input_gives_the_same_bytes_and_carries_its_provenance(tiny_llama, llama_adapter, tmp_path):
    ids = {"base.weights_id": "b3:12", "adapter.digest": "sha256:34"}
    one, two = (
        merge(tiny_llama, llama_adapter, output=tmp_path / folder, provenance=ids, name="same") for folder in ("one", "two")
    )
    assert one.main.sha256 == two.main.sha256
    assert one.path.name == "same-3.2M-F16.gguf"
    fields = read_gguf(one.path).fields
    assert fields["adreg.base.weights_id"] == "b3:12" and fields["adreg.adapter.digest"] == "sha256:34"
    assert fields["adreg.merge.precision"] == MergeRequest.precision == "faithful"
    assert fields["general.base_model.0.name"] == tiny_llama.name
