from typing import Any

import numpy as np
import pytest

from tests.builders import build_adapter, build_checkpoint
from tests.serve.native.ragged import lines, open_native, reference, run_ragged

VOCABULARY = 515
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-untied-biased": ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    "llama-odd-sizes": ("llama", {"hidden_size": 52, "intermediate_size": 75, "head_dim": 48, "num_key_value_heads": 1}),
    "llama-wide-group": ("llama", {"hidden_size": 56, "num_attention_heads": 14, "num_key_value_heads": 1, "head_dim": 16}),
    "llama3-rope": ("llama", {"rope_parameters": LLAMA3}),
    "linear-rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}),
    "mistral": ("mistral", {"sliding_window": 20}),
    "qwen2": ("qwen2", {}),
    "qwen2-sliding": ("qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {"num_hidden_layers": 2}),
    "gemma2": ("gemma2", {"num_hidden_layers": 2}),
    "gemma3": ("gemma3_text", {"num_hidden_layers": 6}),
}
EMBEDDINGS = ["embed_tokens", "lm_head", "q_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "all-linear": {"r": 8},
    "rslora-patterns": {
        "r": 5, "use_rslora": True, "target_modules": ["q_proj", "v_proj", "down_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 19}, "alpha_pattern": {"layers.0.self_attn.v_proj": 3},
    },
    "one-layer": {"r": 3, "layers_to_transform": [1], "target_modules": ["o_proj", "gate_proj", "up_proj"]},
    "embeddings": {"r": 4, "target_modules": EMBEDDINGS},
    "dora": {"r": 6, "use_dora": True},
    "dora-embeddings": {"r": 4, "use_dora": True, "target_modules": EMBEDDINGS},
}  # fmt: skip


def prepared(folder, base, adapters):
    paths = []
    for seed, name in enumerate(adapters):
        path = build_adapter(base, folder / name, seed=seed + 1, **ADAPTERS[name])
        if ADAPTERS[name].get("use_dora"):
            stretch_magnitudes(path, seed)
        paths.append(path)
    return paths


def stretch_magnitudes(path, seed):
    """A magnitude that is not what it began as, or a wrong gain would go unseen."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    for name in tensors:
        if "magnitude" in name:
            tensors[name] = (tensors[name] * (0.7 + 0.6 * torch.rand(tensors[name].shape, generator=generator))).contiguous()
    save_file(tensors, path / "adapter_model.safetensors", {"format": "pt"})


def check(base, adapters, lengths=(70, 33, 9, 41, 1, 50, 64)):
    executor = open_native(base, adapters=adapters)
    given = lines(1, lengths, VOCABULARY, [None, *range(len(adapters))])
    for line, logits in zip(given, run_ragged(executor, given, seed=2), strict=True):
        truth = reference(base, None if line.slot is None else adapters[line.slot], line.tokens)
        assert np.abs(logits - truth).max() <= 1e-4
        assert (logits.argmax(1) == truth.argmax(1)).all()


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_gives_the_logits_of_transformers_and_peft_in_any_company(name, tmp_path):
    kind, changes = MODELS[name]
    base = build_checkpoint(tmp_path / "base", kind, None, vocab_size=VOCABULARY, **changes)
    check(base, prepared(tmp_path, base, ["all-linear"]), lengths=(70, 33, 9, 41))


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:.*tie_word_embeddings")
@pytest.mark.parametrize("tied", [True, False])
def test_every_feature_of_adapters_is_computed_as_peft_does_in_one_batch(tied, tmp_path):
    base = build_checkpoint(
        tmp_path / "base", "llama", None, vocab_size=VOCABULARY, tie_word_embeddings=tied, attention_bias=True, mlp_bias=True
    )
    check(base, prepared(tmp_path, base, ADAPTERS))
