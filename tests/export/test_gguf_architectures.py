from __future__ import annotations

import pytest

from adreg.errors import FormatError, UnsupportedError
from adreg.export.gguf.architectures import architecture_of
from adreg.export.targets import assign
from adreg.formats.bases.checkpoint import open_checkpoint
from tests.builders import build_checkpoint
from tests.export.test_gguf_against_converter import LLAMA3, LONGROPE, YARN, set_config

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
    "qwen2-heads": ("qwen2", {"head_dim": 32}, "add up to its width"),
    "phi3-heads": ("phi3", {"head_dim": 32}, "add up to its width"),
    "longrope-factors": ("phi3", {"rope_parameters": LONGROPE | {"long_factor": [1.0]}}, "1 long rope factors"),
    "inverse-layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer"),
    "no-number": ("qwen3", {"intermediate_size": "wide"}, "not a whole number"),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A model of every kind with a vocabulary of 64."""
    root = tmp_path_factory.mktemp("kinds")
    return {kind: build_checkpoint(root / kind, kind, None, vocab_size=64) for kind in sorted({kind for kind, *_ in REFUSED.values()})}


def written(folder):
    base = open_checkpoint(folder)
    return [tensor.name for tensor in architecture_of(base).tensors(base, assign(base, ()))]


@pytest.mark.parametrize(("kind", "config", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_format_or_llamacpp_cannot_express_is_refused(kind, config, why, bases):
    path = bases[kind] / "config.json"
    before = path.read_text()
    assert "token_embd.weight" in written(bases[kind])
    try:
        set_config(path, **config)
        with pytest.raises((UnsupportedError, FormatError), match=why):
            list_of = written(bases[kind])
            describe(bases[kind], list_of)
    finally:
        path.write_text(before)


def describe(folder, _names):
    from gguf import GGUFWriter

    base = open_checkpoint(folder)
    architecture_of(base).describe(GGUFWriter(None, "test"), base, 0, 64)
