"""What the tensors of a GGUF file are called in a Hugging Face checkpoint, architecture by architecture. Names only.

Source: gguf's tensor_mapping, and llama.cpp's conversion/ and src/models/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from adreg.formats.canonical import canonical_name

KINDS = ("weight", "bias")
# divisors of the rotary frequencies, which a checkpoint's configuration describes
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class TensorNames:
    """The modules of an architecture, GGUF's name for each with the checkpoint's: those outside the blocks, and those
    of one block, which the checkpoint counts under `blocks`."""

    outside: Mapping[str, str]
    block: Mapping[str, str]
    blocks: str = "model.layers"

    def in_checkpoint(self, name: str) -> str | None:
        """`blk.3.ffn_up.weight` as `model.layers.3.mlp.up_proj.weight`, or None for a name that has no place here."""
        stem, _, kind = name.rpartition(".")
        if kind not in KINDS:
            return None
        if stem in self.outside:
            return f"{self.outside[stem]}.{kind}"
        block, _, part = stem.removeprefix("blk.").partition(".")
        known = stem.startswith("blk.") and block.isdigit() and part in self.block
        return f"{self.blocks}.{block}.{self.block[part]}.{kind}" if known else None

    def in_gguf(self, name: str) -> str | None:
        """The other way round, whatever prefixes wrappers have put before `name`."""
        stem, _, kind = canonical_name(name).rpartition(".")
        if kind not in KINDS:
            return None
        if stem in self._outside:
            return f"{self._outside[stem]}.{kind}"
        counted = f"{canonical_name(self.blocks)}."
        block, _, part = stem.removeprefix(counted).partition(".")
        known = stem.startswith(counted) and block.isdigit() and part in self._block
        return f"blk.{block}.{self._block[part]}.{kind}" if known else None

    @cached_property
    def _outside(self) -> dict[str, str]:
        return {canonical_name(theirs): ours for ours, theirs in self.outside.items()}

    @cached_property
    def _block(self) -> dict[str, str]:
        return {theirs: ours for ours, theirs in self.block.items()}


OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
FUSED = {
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
GPT2_OUTSIDE = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
GPT2_BLOCK = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
# Gemma's head is its embedding table
TIED_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
GEMMA_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
NAMES = {
    "gemma": TensorNames(TIED_OUTSIDE, NORMS | ATTENTION | MLP),
    "gemma2": TensorNames(TIED_OUTSIDE, GEMMA_NORMS | ATTENTION | MLP),
    "gemma3": TensorNames(OUTSIDE, GEMMA_NORMS | ATTENTION | HEAD_NORMS | MLP),
    "gpt2": TensorNames(GPT2_OUTSIDE, GPT2_BLOCK, "transformer.h"),
    "llama": TensorNames(OUTSIDE, NORMS | ATTENTION | MLP),
    "phi3": TensorNames(OUTSIDE, NORMS | FUSED),
    "qwen2": TensorNames(OUTSIDE, NORMS | ATTENTION | MLP),
    "qwen3": TensorNames(OUTSIDE, NORMS | ATTENTION | HEAD_NORMS | MLP),
}
# the architectures whose files adreg reads back: values as they are, but for the order of rows in `rotated_by`
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def checkpoint_name(architecture: str, name: str) -> str:
    """`blk.3.ffn_up.weight` as `model.layers.3.mlp.up_proj.weight`; `name` itself where adreg knows no other."""
    known = NAMES[architecture].in_checkpoint(name) if architecture in CLASSES else None
    return known or name


def rotated_by(architecture: str, name: str) -> str | None:
    """The field with the number of heads by which the rows of tensor `name` were interleaved, or None.

    `llama` alone stores the rows of q and k in interleaved rotary pairs.
    """
    if architecture != "llama":
        return None
    part = name.rpartition(".")[0].rpartition(".")[2]
    fields = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    return fields.get(part)
