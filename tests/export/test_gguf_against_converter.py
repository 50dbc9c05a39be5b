from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from adreg.export.request import MergeRequest
from adreg.formats.gguf.header import GgufFile, read_gguf
from tests.builders import build_adapter, build_checkpoint
from tests.export.merging import merge, peft_merged, retokenize
from tests.export.oracle import convert, needs_oracle
from tests.export.test_gguf_tokenizer import QWEN2_SPLIT, split

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
# llama.cpp chooses between the factors by the size of its context, of which it never makes less than 256
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 256, "short_factor": [1.0, 1.1, 1.3, 1.5, 2.0, 3.0],
            "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]}  # fmt: skip
OURS = ("adreg.", "general.base_model.", "GGUF.")
# adreg says whether texts begin with a special token and with a space; the converter leaves it to llama.cpp's defaults
SAID = {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_space_prefix": False}
QUANTS = ("f32", "f16", "bf16", "q8_0")


@dataclass(frozen=True)
class Model:
    """A tiny checkpoint; `pre` is the pre-tokenizer that the converter has to be told."""

    kind: str
    changes: dict[str, Any] = field(default_factory=dict)
    pre: str | None = None

    def build(self, folder: Path, tokenizer: Path) -> Path:
        build_checkpoint(folder, self.kind, tokenizer, **self.changes)
        if self.pre == "qwen2":
            retokenize(folder, split(QWEN2_SPLIT), {"type": "NFC"})
        if self.kind == "phi3":
            set_config(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
        return folder

    def adapter(self, base: Path, folder: Path) -> Path:
        conv1d: dict[str, Any] = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
        return build_adapter(base, folder, seed=7, use_rslora=True, **(conv1d if self.kind == "gpt2" else {}))


MODELS = {
    "gpt2": Model("gpt2", {"n_ctx": 256, "tie_word_embeddings": False}),
    "llama-tied-linear-padded": Model("llama", {"rope_parameters": LINEAR, "vocab_size": 49160}),
    # rows of 168 do not divide into blocks of 32
    "llama-untied-llama3-biases-shards": Model("llama", {
        "tie_word_embeddings": False, "rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True, "shards": 3,
        "intermediate_size": 168, "head_dim": 32, "num_hidden_layers": 11,
    }),
    "llama-yarn": Model("llama", {"rope_parameters": YARN | {"beta_fast": 16.0}}),
    "mistral": Model("mistral", {"sliding_window": 64}),
    "phi3": Model("phi3", {"sliding_window": 64}),
    "phi3-longrope": Model("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 256}),
    "qwen2": Model("qwen2", pre="qwen2"),
    "qwen3-yarn": Model("qwen3", {"rope_parameters": YARN}),
}  # fmt: skip
QUICK = (
    ("gpt2", "q8_0", True),
    ("llama-tied-linear-padded", "f16", True),
    ("llama-untied-llama3-biases-shards", "q8_0", True),
    ("llama-yarn", "bf16", False),
    ("phi3-longrope", "f16", True),
    ("qwen2", "q8_0", True),
    ("qwen3-yarn", "f32", False),
)
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow, id="-".join(map(str, case)))
    for case in product(MODELS, QUANTS, (False, True))
]


@needs_oracle
@pytest.mark.parametrize(("name", "quant", "adapted"), CASES)
def test_compat_is_byte_for_byte_what_peft_and_the_converter_make(name, quant, adapted, tokenizer_folder, tmp_path):
    model = MODELS[name]
    base = model.build(tmp_path / "Their-Name", tokenizer_folder)
    adapters = [model.adapter(base, tmp_path / "adapter")] if adapted else []
    ours = merge(base, *adapters, output=tmp_path / "ours.gguf", quant=quant, precision="compat", name="Their Name")
    folder = merged(base, adapters[0], tmp_path / "merged" / "Their-Name") if adapters else base
    mine, theirs = read_gguf(ours.path), read_gguf(convert(folder, tmp_path / "theirs.gguf", quant, model.pre))

    assert_same_tensors(mine, theirs)
    if not adapted:
        assert list(mine.tensors) == list(theirs.tensors)
    fields = {key: value for key, value in mine.fields.items() if not key.startswith(OURS)}
    expected = {key: value for key, value in theirs.fields.items() if not key.startswith(OURS)}
    assert fields == {**SAID, **expected}


@needs_oracle
@pytest.mark.parametrize("trouble", ["n_ctx", "attn.bias"])
def test_gpt2_as_it_is_published_becomes_the_same_file_where_the_converter_fails(trouble, tokenizer_folder, tmp_path):
    base = MODELS["gpt2"].build(tmp_path / "Same", tokenizer_folder)
    plain = merge(base, output=tmp_path / "plain.gguf", name="same")
    if trouble == "n_ctx":
        set_config(base / "config.json", n_ctx=None)
    else:
        tensors = load_file(base / "model.safetensors")
        tensors["transformer.h.0.attn.bias"] = tensors["transformer.h.0.ln_1.bias"].reshape(1, 1, 8, 8)
        save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(AssertionError, match=trouble):
        convert(base, tmp_path / "theirs.gguf", "f16")
    assert merge(base, output=tmp_path / "again.gguf", name="same").main.sha256 == plain.main.sha256


@needs_oracle
def test_phi3_with_the_tokenizer_class_of_transformers_5_becomes_the_same_file_where_the_converter_fails(
    tokenizer_folder, tmp_path
):
    base = MODELS["phi3"].build(tmp_path / "Same", tokenizer_folder)
    plain = merge(base, output=tmp_path / "plain.gguf", name="same")
    set_config(base / "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    with pytest.raises(AssertionError, match=r"tokenizer\.model"):
        convert(base, tmp_path / "theirs.gguf", "f16")
    assert merge(base, output=tmp_path / "again.gguf", name="same").main.sha256 == plain.main.sha256


def test_a_token_that_ends_answers_by_generation_config_alone_is_written(tiny_llama, tmp_path):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    # <|im_end|> and <|endoftext|>, which llama.cpp knows by their text
    set_config(base / "generation_config.json", eos_token_id=[2, 0])
    known = read_gguf(merge(base, output=tmp_path / "known.gguf").path).fields
    assert known["tokenizer.ggml.eos_token_id"] == 2 and "tokenizer.ggml.eot_token_id" not in known
    set_config(base / "generation_config.json", eos_token_id=[2, 0, 7])
    assert read_gguf(merge(base, output=tmp_path / "own.gguf").path).fields["tokenizer.ggml.eot_token_id"] == 7


def test_a_qwen3_is_a_language_model_whatever_its_folder_is_called(tokenizer_folder, tmp_path):
    base = build_checkpoint(tmp_path / "Qwen3-Reranker-tiny", "qwen3", tokenizer_folder)
    found = read_gguf(merge(base, output=tmp_path / "out.gguf").path)
    assert "qwen3.pooling_type" not in found.fields and "cls.output.weight" not in found.tensors


def test_the_inner_width_of_a_gpt2_is_written_as_it_is(tokenizer_folder, tmp_path):
    base = build_checkpoint(tmp_path / "base", "gpt2", tokenizer_folder, n_inner=96)
    assert read_gguf(merge(base, output=tmp_path / "out.gguf").path).fields["gpt2.feed_forward_length"] == 96


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


def merged(base: Path, adapter: Path, folder: Path) -> Path:
    """The checkpoint that PEFT makes of the two, with the base's tokenizer."""
    peft_merged(base, adapter).save_pretrained(folder)
    for file in base.iterdir():
        if file.name.startswith(("tokenizer", "chat_template")):
            shutil.copy(file, folder)
    return folder


def assert_same_tensors(mine: GgufFile, theirs: GgufFile) -> None:
    assert mine.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        own = mine.tensors[name]
        assert (own.dtype, own.shape) == (tensor.dtype, tensor.shape), name
        assert own.data == tensor.data, name


def set_config(path: Path, **changes: Any) -> None:
    """Change settings in a JSON file; None takes one out."""
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
