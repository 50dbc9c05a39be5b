"""Trained parameters of the recipes on the real shapes, counted without weights."""

from __future__ import annotations

from typing import Any

import pytest

from adreg.train.config import check_config
from adreg.train.model.load import count_trainable

GPT2 = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
QWEN = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
INDEX = {
    "model_type": "index", "architectures": ["IndexForCausalLM"], "auto_map": {"AutoModel": "modeling_index.IndexModel"},
    "hidden_size": 2048, "intermediate_size": 5888, "num_hidden_layers": 36, "num_attention_heads": 16, "vocab_size": 65029,
    "rms_norm_eps": 1e-6, "norm_head": 1, "max_length": 4096, "tie_word_embeddings": False,
}  # fmt: skip
SMOLLM2 = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.mark.parametrize(
    ("config_json", "lora", "trainable", "total"),
    [
        (GPT2, {"r": 16, "alpha": 32, "targets": ["c_attn"]}, 589_824, 125_029_632),
        (GPT2, {"r": 8, "alpha": 32, "dropout": 0.1, "targets": "auto"}, 294_912, 124_734_720),
        (QWEN, {"r": 8, "alpha": 32, "targets": QKVO}, 1_081_344, 495_114_112),
        (INDEX, {"r": 8, "alpha": 32, "targets": [*QKVO, "gate_proj", "up_proj", "down_proj"]}, 11_575_296, 2_184_394_752),
        (SMOLLM2, {"r": 8, "targets": "all-linear"}, 2_442_240, 136_957_248),
        (SMOLLM2, {"r": 8, "targets": "all-linear", "init": "pissa"}, 2_442_240, 136_957_248),
    ],
)
def test_the_recipes_train_what_the_arithmetic_says(
    config_json: dict[str, Any], lora: dict[str, Any], trainable: int, total: int
) -> None:
    assert count_trainable(config_json, check_config({"lora": lora})) == (trainable, total)


@pytest.mark.parametrize(
    ("settings", "trainable"),
    [
        ({"method": "ia3", "lora": {"targets": "auto"}}, 30 * (192 + 192 + 1536)),
        ({"method": "loha", "lora": {"r": 4, "targets": ["q_proj"]}}, 30 * 2 * 4 * (576 + 576)),
        ({"method": "prompt", "prompt": {"tokens": 10}}, 10 * 576),
        ({"method": "prefix", "prompt": {"tokens": 10}}, 10 * 30 * 2 * 192),
        ({"method": "p-tuning", "prompt": {"tokens": 10, "hidden": 64}}, 10 * 576 + 577 * 64 + 65 * 64 + 65 * 576 - 0),
        ({"lora": {"r": 2, "layers": [0, 29], "targets": "all-linear"}}, 2 * 2 * 10176),
        ({"lora": {"r": 2, "rank_pattern": {"q_proj": 4}, "targets": ["q_proj", "v_proj"]}}, 30 * (4 * 1152 + 2 * 768)),
        ({"lora": {"r": 2, "dora": True, "targets": ["q_proj"]}}, 30 * (2 * 1152 + 576)),
        ({"lora": {"r": 2, "targets": ["q_proj"], "new_tokens": ["<a>", "<b>"]}}, 30 * 2 * 1152 + 2 * 576),
        ({"lora": {"r": 2, "targets": ["q_proj"], "modules_to_save": ["embed_tokens"]}}, 30 * 2 * 1152 + 49152 * 576),
    ],
)
def test_every_method_is_counted(settings: dict[str, Any], trainable: int) -> None:
    assert count_trainable(SMOLLM2, check_config(settings)).trainable == trainable
