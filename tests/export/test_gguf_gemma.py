from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

from adreg.errors import UnsupportedError
from adreg.export.proof.verify import Subject, verify_gguf
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.gguf.header import read_gguf
from tests.builders import GEMMA, TURNS, build_adapter, build_checkpoint
from tests.export import spm
from tests.export.merging import merge, request
from tests.export.oracle import convert, needs_oracle
from tests.export.test_gguf_against_converter import OURS, assert_same_tensors, merged

pytestmark = spm.needs_vocabularies
LINEAR = {"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
          "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}  # fmt: skip
PUBLISHED = {"head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "query_pre_attn_scalar": 256,
             "max_position_embeddings": 131072, "num_hidden_layers": 6, "rope_parameters": LINEAR}  # fmt: skip
KINDS = ("gemma", "gemma2", "gemma3_text", "gemma3")
# the converter gives every Gemma the tokens of CodeGemma by their ids
CODE = {f"tokenizer.ggml.{name}_token_id" for name in ("prefix", "suffix", "middle", "fsep", "eot")}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return spm.write_tokenizer_files(tmp_path_factory.mktemp("gemma"), spm.gemma(), model=True)


def build(folder, kind, tokenizer, **changes):
    """A random Gemma with norms that are not all nought."""
    import torch

    build_checkpoint(folder, kind, tokenizer, **changes)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        norms = {name: torch.randn_like(tensor) / 3 for name, tensor in tensors.items() if name.endswith("norm.weight")}
        save_file({**tensors, **norms}, path, {"format": "pt"})
    return folder


def adapter(base, folder, towers=""):
    targets = rf"(?!.*{towers or 'vision'}).*layers\.\d+\.(self_attn|mlp)\..*(q|v|o|up|down)_proj"
    return build_adapter(base, folder, seed=7, use_rslora=True, target_modules=targets)


@needs_oracle
@pytest.mark.parametrize(
    ("kind", "quant", "adapted"),
    [
        pytest.param("gemma", "bf16", True, marks=pytest.mark.slow),
        ("gemma2", "q8_0", True),
        ("gemma3_text", "f16", True),
        pytest.param("gemma3", "f32", False, marks=pytest.mark.slow),
    ],
)
def test_compat_is_byte_for_byte_what_peft_and_the_converter_make(kind, quant, adapted, tokenizer, tmp_path):
    changes = {"rope_parameters": LINEAR} if kind == "gemma3_text" else {}
    base = build(tmp_path / "Their-Name", kind, tokenizer, **changes)
    adapters = [adapter(base, tmp_path / "adapter")] if adapted else []
    ours = merge(base, *adapters, output=tmp_path / "ours.gguf", quant=quant, precision="compat", name="Their Name")
    folder = merged(base, adapters[0], tmp_path / "merged" / "Their-Name") if adapters else base
    mine, theirs = read_gguf(ours.path), read_gguf(convert(folder, tmp_path / "theirs.gguf", quant))

    assert_same_tensors(mine, theirs)
    fields, expected = (
        {key: value for key, value in file.fields.items() if not key.startswith(OURS) and key not in CODE}
        for file in (mine, theirs)
    )
    assert fields == expected


@pytest.mark.parametrize("kind", KINDS)
def test_real_llama_cpp_computes_what_transformers_does(kind, tokenizer, tmp_path):
    changes = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}} if kind == "gemma2" else {}
    base = build(tmp_path / "base", kind, tokenizer, **changes)
    path = adapter(base, tmp_path / "adapter")
    found = verify_gguf(
        merge(base, path, output=tmp_path / "it.gguf", quant="f32").path,
        Subject(open_checkpoint(base), request(base, path, output=tmp_path).sources),
    )
    assert found.passed and found.lines > 200
    assert found.max_delta_logprob < 1e-3 and found.top1_agreement == 1


def test_an_adapter_of_the_vision_tower_is_refused(tokenizer, tmp_path):
    base = build_checkpoint(tmp_path / "base", "gemma3", tokenizer)
    path = adapter(base, tmp_path / "adapter", towers="language_model")
    with pytest.raises(UnsupportedError, match="vision_tower"):
        merge(base, path, output=tmp_path / "it.gguf")


def test_what_published_files_of_gemma3_leave_out_is_filled_in(tokenizer, tmp_path):
    base = build_checkpoint(tmp_path / "base", "gemma3", tokenizer, text_config=GEMMA | TURNS | PUBLISHED)
    whole = read_gguf(merge(base, output=tmp_path / "whole.gguf", name="it").path).fields
    config = json.loads((base / "config.json").read_text())
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "sliding_window", "pad_token_id")
    text = {key: config["text_config"][key] for key in kept} | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    (base / "config.json").write_text(json.dumps(config | {"text_config": text}))
    assert read_gguf(merge(base, output=tmp_path / "short.gguf", name="it").path).fields == whole


REFUSED = {
    "activation": ("gemma", {"hidden_act": "silu"}),
    "scale": ("gemma2", {"query_pre_attn_scalar": 64}),
    "turns-2": ("gemma2", {"layer_types": ["full_attention"] * 8}),
    "turns-6": ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"] * 4}),
    "no-cap": ("gemma2", {"attn_logit_softcapping": None}),
    "cap": ("gemma3_text", {"attn_logit_softcapping": 50.0}),
    "local-rope": ("gemma3_text", {"rope_parameters": LINEAR | {"sliding_attention": LINEAR["full_attention"]}}),
    "bidirectional": ("gemma3_text", {"use_bidirectional_attention": True}),
    "untied": ("gemma2", {"tie_word_embeddings": False}),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "changes"), REFUSED.values(), ids=REFUSED.keys())
def test_a_gemma_that_llama_cpp_would_compute_otherwise_is_refused(kind, changes, tmp_path):
    base = build_checkpoint(tmp_path / "base", kind, None, vocab_size=64)
    if changes == {"tie_word_embeddings": False}:
        base = build_checkpoint(tmp_path / "untied", kind, None, vocab_size=64, **changes)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UnsupportedError):
        merge(base, output=tmp_path / "it.gguf")
    assert not (tmp_path / "it.gguf").exists()
