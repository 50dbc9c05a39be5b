"""Tiny bases of every kind that folding knows, and a strong random PEFT adapter for every feature; PEFT's own merges."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adreg.export.changes.source import Source
from adreg.export.fold.folded import Folded
from adreg.export.targets import assign
from adreg.formats.adapters.others import open_any_adapter
from adreg.formats.bases.checkpoint import Checkpoint, open_checkpoint
from adreg.formats.dtypes import Float32, from_float32, to_float32
from adreg.formats.safetensors import open_safetensors

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**SIZES, "attention_bias": True, "tie_word_embeddings": False}),
    "tied": ("Llama", {**SIZES, "tie_word_embeddings": True}),
    "gpt2": ("GPT2", {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "mixtral": ("Mixtral", {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2moe": (
        "Qwen2Moe",
        {
            **SIZES, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
        },
    ),
}  # fmt: skip
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"]}
GPT2 = {**LORA, "target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}
TABLES = {**LORA, "target_modules": ["embed_tokens", "lm_head", "q_proj"]}
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


@dataclass(frozen=True)
class Case:
    """An adapter of class `config` with `settings`. `bits` says that PEFT rounds once on a bf16 base, as adreg does."""

    base: str
    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    bits: bool = True


def _lora(base: str, bits: bool = True, **settings: Any) -> Case:
    return Case(base, "LoraConfig", {**(GPT2 if base == "gpt2" else LORA), **settings}, bits)


def _parameters(base: str, *parameters: str, **settings: Any) -> Case:
    named = {"target_modules": [], "target_parameters": list(parameters)}
    return Case(base, "LoraConfig", {**LORA, **named, **settings}, bits=False)


def _other(config: str, base: str = "llama", bits: bool = True, **settings: Any) -> Case:
    known = GPT2 if base == "gpt2" else LORA
    targets: dict[str, Any] = {key: known[key] for key in ("target_modules", "fan_in_fan_out") if key in known}
    return Case(base, f"{config}Config", {**targets, **settings}, bits)


CASES = {
    "linear": _lora("llama"),
    "linear-tied": _lora("tied"),
    "conv1d": _lora("gpt2"),
    "rslora": _lora("llama", use_rslora=True),
    "rslora-conv1d": _lora("gpt2", use_rslora=True),
    "patterns": _lora("llama", rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"down_proj": 3}),
    "expressions": _lora("llama", rank_pattern={r"layers\.0\..*q_proj": 2}, alpha_pattern={r"layers\.1\..*": 3}),
    "layers": _lora("llama", layers_to_transform=[1]),
    "all-linear": _lora("llama", target_modules="all-linear", r=16),
    "head": _lora("llama", target_modules=["lm_head"]),
    "embedding": _lora("llama", bits=False, target_modules=["embed_tokens"]),
    "positions": _lora("gpt2", bits=False, target_modules=["wpe", "c_attn"]),
    "dora": _lora("llama", use_dora=True),
    "dora-rslora": _lora("llama", use_dora=True, use_rslora=True),
    "dora-conv1d": _lora("gpt2", use_dora=True),
    "dora-tables": _lora("llama", use_dora=True, target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "lora-bias": _lora("llama", target_modules=["q_proj"], lora_bias=True),
    "lora-bias-conv1d": _lora("gpt2", lora_bias=True),
    "bias-lora-only": _lora("llama", bias="lora_only"),
    "bias-all": _lora("llama", bias="all"),
    "bias-all-conv1d": _lora("gpt2", bias="all"),
    "bias-and-lora-bias": _lora("llama", target_modules=["q_proj"], bias="all", lora_bias=True),
    "saved-tables": _lora("llama", modules_to_save=["lm_head", "embed_tokens"]),
    "saved-norms": _lora("llama", modules_to_save=["norm"]),
    "saved-norms-conv1d": _lora("gpt2", modules_to_save=["ln_f"]),
    "saved-tied-alike": _lora("tied", modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "saved-tied-head": _lora("tied", modules_to_save=["lm_head"]),
    "saved-tied-table": _lora("tied", modules_to_save=["embed_tokens"]),
    "tokens": _lora("llama", trainable_token_indices=[3, 1, 90]),
    "tokens-of-both": _lora("llama", trainable_token_indices={"embed_tokens": [3, 1, 90], "lm_head": [2]}),
    "tokens-conv1d": _lora("gpt2", trainable_token_indices={"wte": [7, 5]}),
    "tokens-tied": _lora("tied", trainable_token_indices=[3, 1, 90]),
    "tokens-only": Case("llama", "TrainableTokensConfig", {"token_indices": [5, 1]}),
    "tokens-only-tied": Case("tied", "TrainableTokensConfig", {"token_indices": [5, 1]}),
    "parameter": _parameters("llama", "q_proj.weight"),
    "parameter-conv1d": _parameters("gpt2", "c_attn.weight"),
    "experts-mixtral": _parameters("mixtral", *EXPERTS, target_modules=["q_proj"]),
    "experts-qwen2": _parameters("qwen2moe", *EXPERTS, target_modules=["q_proj"]),
    "experts-rslora": _parameters("mixtral", *EXPERTS, use_rslora=True, alpha_pattern={"experts.down_proj": 3}),
    "experts-down": _parameters("qwen2moe", "mlp.experts.down_proj", r=3),
    "router": _parameters("mixtral", "mlp.gate.weight", "mlp.experts.gate_up_proj"),
    "shared-expert": _lora("qwen2moe", target_modules=["shared_expert.up_proj", "shared_expert_gate"]),
    "adalora": _other("AdaLora", init_r=6, target_r=4, lora_alpha=3, total_step=10),
    "adalora-conv1d": _other("AdaLora", "gpt2", init_r=6, target_r=4, lora_alpha=3, total_step=10),
    "loha": _other("LoHa", r=4, alpha=3, alpha_pattern={"down_proj": 5}),
    "lokr": _other("LoKr", r=4, alpha=3, rank_pattern={"down_proj": 2}),
    "lokr-both": _other("LoKr", r=2, alpha=3, decompose_both=True, decompose_factor=8),
    "ia3": _other("IA3", feedforward_modules=["down_proj"]),
    "ia3-conv1d": _other("IA3", "gpt2", feedforward_modules=["mlp.c_proj"]),
    "oft": _other("OFT", bits=False, r=0, oft_block_size=8),
    "oft-shared": _other("OFT", bits=False, r=0, oft_block_size=8, block_share=True),
    "oft-3-terms": _other("OFT", bits=False, r=4, oft_block_size=0, num_cayley_neumann_terms=3),
    "oft-6-terms": _other("OFT", bits=False, r=4, oft_block_size=0, num_cayley_neumann_terms=6),
    "oft-cayley": _other("OFT", bits=False, r=4, oft_block_size=0, use_cayley_neumann=False),
    "vera": _other("Vera", r=4),
    "vera-conv1d": _other("Vera", "gpt2", r=4, target_modules=["c_attn"]),
    "layernorm": Case("llama", "LNTuningConfig", {"target_modules": ["norm"]}),
}
# PEFT's merge changes both sides of a tied base here (peft#2018); its forward changes those that the adapter names
UNTYING = {
    "table": _lora("tied", target_modules=["embed_tokens", "q_proj"]),
    "head": _lora("tied", target_modules=["lm_head", "q_proj"]),
    "both": Case("tied", "LoraConfig", TABLES),
    "dora": Case("tied", "LoraConfig", {**TABLES, "use_dora": True}),
    "saved-head": CASES["saved-tied-head"],
    "saved-table": CASES["saved-tied-table"],
    "tokens": _lora("tied", trainable_token_indices={"embed_tokens": [3, 1], "lm_head": [2]}),
    "wte": _lora("gpt2", target_modules=["wte", "c_attn"]),
}


def build_base(folder: Path, kind: str) -> Path:
    """Save a random model of `kind` in bfloat16."""
    import torch
    import transformers

    name, settings = BASES[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def build_case(case: Case, base: Path, folder: Path) -> Path:
    """Save the adapter of `case`, every trainable number of it moved at random."""
    import peft
    import torch

    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(load_model(base), getattr(peft, case.config)(**case.settings))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.2 * torch.randn_like(parameter)
        model.save_pretrained(folder)
    return folder


def load_model(base: Path, **settings: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, **settings)


def peft_model(base: Path, adapter: Path, **settings: Any) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(load_model(base, **settings), adapter)


def peft_merge(base: Path, adapter: Path, folder: Path, **settings: Any) -> dict[str, Float32]:
    """The tensors of the checkpoint that PEFT's merge makes, as transformers saves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft_model(base, adapter, **settings).merge_and_unload().save_pretrained(folder)
    return {name: view.float32() for name, view in open_safetensors(folder / "model.safetensors").items()}


def fold(base: Path, *adapters: Path) -> tuple[Checkpoint, dict[str, Folded]]:
    checkpoint = open_checkpoint(base)
    return checkpoint, assign(checkpoint, [Source(open_any_adapter(adapter), 1.0, adapter.name) for adapter in adapters])


def whole(folded: Folded) -> Float32:
    return folded.block(0, folded.shape[0])


def rounded(values: Float32, dtype: str) -> Float32:
    """`values` after one rounding to `dtype`."""
    return to_float32(memoryview(from_float32(values, dtype)), dtype).reshape(values.shape)


def steps(one: Float32, other: Float32, scale: Float32) -> float:
    """The largest difference in bf16 steps of numbers of the size of `scale`."""
    return float((np.abs(one - other) / 2.0 ** (np.floor(np.log2(np.maximum(np.abs(scale), 1e-30))) - 7)).max())
