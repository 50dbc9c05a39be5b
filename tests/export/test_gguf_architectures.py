from __future__ import annotations

from dataclasses import replace

import pytest
from safetensors.numpy import load_file, save_file

from adreg.errors import FormatError, UnsupportedError
from adreg.export.fold.folded import Folded
from adreg.export.gguf.architectures import architecture_of
from adreg.export.targets import assign
from adreg.formats.bases.checkpoint import open_checkpoint
from tests.builders import build_checkpoint
from tests.export.test_gguf_against_converter import LLAMA3, LONGROPE, YARN

REFUSED = {
    "activation": ("llama", {"hidden_act": "gelu"}, "gelu"),
    "rope-type": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}, "dynamic"),
    "yarn-truncate": ("llama", {"rope_parameters": YARN | {"truncate": False}}, "truncate"),
    "yarn-attention": ("qwen3", {"rope_parameters": YARN | {"attention_factor": 1.0}}, "attention_factor"),
    "yarn-without-length": ("qwen2", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
    "partial-rotation": ("mistral", {"partial_rotary_factor": 0.5}, "0.5 of each head"),
    "llama3-in-a-qwen": ("qwen2", {"rope_parameters": LLAMA3}, "llama3"),
    "fewer-layers": ("llama", {"num_hidden_layers": 1}, "more layers"),
    "more-layers": ("gpt2", {"n_layer": 3}, "lacks 12 tensors"),
    "no-head": ("llama", {"tie_word_embeddings": False}, "not tied"),
    "sliding-window": ("qwen3", {"use_sliding_window": True}, "sliding windows"),
    "heads": ("llama", {"head_dim": 8}, "64 rows in q_proj for 4 heads of 8"),
    "key-value-heads": ("mistral", {"num_key_value_heads": 4}, "64 rows in k_proj for 4 heads of 32"),
    "qwen2-heads": ("qwen2", {"hidden_size": 128}, "add up to its width"),
    "phi3-heads": ("phi3", {"head_dim": 32}, "add up to its width"),
    "longrope-factors": ("phi3", {"rope_parameters": LONGROPE | {"long_factor": [1.0]}}, "1 long rope factors"),
    "inverse-layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer"),
    "linear-without-factor": ("llama", {"rope_parameters": {"rope_type": "linear"}}, "linear"),
    "no-number": ("qwen3", {"intermediate_size": "wide"}, "not a whole number"),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A model of each kind with a vocabulary of 64."""
    root, kinds = tmp_path_factory.mktemp("kinds"), {kind for kind, *_ in REFUSED.values()}
    return {kind: open_checkpoint(build_checkpoint(root / kind, kind, None, vocab_size=64)) for kind in sorted(kinds)}


def written(base):
    return [tensor.name for tensor in architecture_of(base).tensors(base, assign(base, ()))]


@pytest.mark.parametrize(("kind", "config", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_format_or_llamacpp_cannot_express_is_refused(kind, config, why, bases):
    base = bases[kind]
    assert "token_embd.weight" in written(base)
    with pytest.raises((UnsupportedError, FormatError), match=why):
        written(replace(base, config=base.config | config))


def test_a_tensor_without_a_place_is_refused_by_name(tmp_path):
    import torch

    folder = build_checkpoint(tmp_path / "base", "qwen3", None, vocab_size=64, dtype=torch.float32)
    tensors = load_file(folder / "model.safetensors")
    odd = "model.layers.0.self_attn.o_proj.bias"
    save_file(tensors | {odd: tensors["model.norm.weight"]}, folder / "model.safetensors")
    with pytest.raises(UnsupportedError, match=odd):
        written(open_checkpoint(folder))


def test_a_head_of_its_own_is_written_though_the_base_ties_it(bases):
    base = bases["llama"]
    folds, table = assign(base, ()), base["model.embed_tokens.weight"]
    untied = folds | {"lm_head.weight": Folded("lm_head.weight", table, table.dtype)}
    places = [architecture_of(base).tensors(base, given) for given in (folds, untied)]
    tied, own = ([tensor.name for tensor in tensors] for tensors in places)
    # first in its shard, as the converter has it
    assert "output.weight" not in tied and own == ["output.weight", *tied]


def test_a_gpt2_without_its_prefix_is_written_the_same(bases, tmp_path):
    folder = build_checkpoint(tmp_path / "base", "gpt2", None, vocab_size=64)
    tensors = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("transformer."): view for name, view in tensors.items()}, folder / "model.safetensors")
    assert written(open_checkpoint(folder)) == written(bases["gpt2"])
