"""What the tensors of a GGUF file are called in a Hugging Face checkpoint, for the architectures stored without change.

Source: gguf's tensor_mapping and llama.cpp's conversion/{llama,qwen}.py: `llama` stores the rows of q and k in
interleaved rotary pairs, `qwen2` and `qwen3` store everything as it is. What has no place here keeps its own name.
"""

from __future__ import annotations

GLOBAL_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
BLOCKS = {"llama": BLOCK_NAMES, "qwen2": BLOCK_NAMES, "qwen3": BLOCK_NAMES | HEAD_NORMS}
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# divisors of the rotary frequencies, which a checkpoint's configuration describes
ROPE_FACTORS = "rope_freqs.weight"


def checkpoint_name(architecture: str, name: str) -> str:
    """`blk.3.ffn_up.weight` as `model.layers.3.mlp.up_proj.weight`; `name` itself where adreg knows no other."""
    parts = BLOCKS.get(architecture)
    stem, _, kind = name.rpartition(".")
    if parts is None or kind not in ("weight", "bias"):
        return name
    if stem in GLOBAL_NAMES:
        return f"{GLOBAL_NAMES[stem]}.{kind}"
    block, _, part = stem.removeprefix("blk.").partition(".")
    known = stem.startswith("blk.") and block.isdigit() and part in parts
    return f"model.layers.{block}.{parts[part]}.{kind}" if known else name


def rotated_by(architecture: str, name: str) -> str | None:
    """The field with the number of heads by which the rows of tensor `name` were interleaved, or None."""
    if architecture != "llama":
        return None
    part = name.rpartition(".")[0].rpartition(".")[2]
    fields = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    return fields.get(part)
