"""Adapters of every family and feature, sound and spoiled, each with the log probabilities that its training left.

An engine takes one when it loads it and gives these again. Real PEFT adapters on tiny real models with SmolLM2's
tokenizer, which llama.cpp knows.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adreg.formats.dtypes import Float32
from tests.audit.mutations import Array, configure, tensors

COMMON: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    "initializer_range": 0.3,
}  # fmt: skip
MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "decoder_sparse_step": 1,
    "head_dim": 8,
    "norm_topk_prob": True,
}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "untied": ("LlamaConfig", {"tie_word_embeddings": False}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": False}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "neox": ("GPTNeoXConfig", {}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "moe": ("Qwen3MoeConfig", MOE),
    "bloom": ("BloomConfig", {"n_head": 4, "n_layer": 2}),
    "starcoder2": ("Starcoder2Config", {}),
    "stablelm": ("StableLmConfig", {}),
    "olmo2": ("Olmo2Config", {}),
    "phi": ("PhiConfig", {"num_key_value_heads": 4, "intermediate_size": 128}),
    "opt": ("OPTConfig", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "other weights": ("LlamaConfig", {"tie_word_embeddings": True, "seed": 9}),
    "other heads": ("LlamaConfig", {"tie_word_embeddings": True, "num_attention_heads": 8, "num_key_value_heads": 4}),
    "one layer": ("LlamaConfig", {"tie_word_embeddings": True, "num_hidden_layers": 1}),
}
IDS = [11, 504, 1700, 42, 9, 321, 2050, 77, 15000, 600, 31, 8]
INVOCATION = [2050, 77]
LORA = "LoraConfig"
NO_COPIES = {"save_embedding_layers": False}
EXPERTS = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]}
QV: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"]}
ALL: dict[str, Any] = {"target_modules": "all-linear"}
R4: dict[str, Any] = {"r": 4, "lora_alpha": 8}


@dataclass(frozen=True)
class Variant:
    """An adapter: the base and PEFT configuration it is trained with, what is then done to its files, and the base
    that it is used on, where that is another one. The answers are compared from position `first` on."""

    base: str
    family: str
    settings: dict[str, Any]
    spoil: Callable[[Path], None] = lambda folder: None
    used_on: str = ""
    save: dict[str, Any] = field(default_factory=dict)
    first: int = 0


@dataclass(frozen=True)
class Made:
    """A variant's folder, and the log probabilities (positions, vocabulary) of its training and of its bare base."""

    variant: Variant
    folder: Path
    trained: Float32
    bare: Float32


def renamed(change: Callable[[str], str]) -> Callable[[Path], None]:
    """Rename the tensors."""

    def apply(found: dict[str, Array]) -> None:
        for name in list(found):
            found[change(name)] = found.pop(name)

    return tensors(apply)


def without(part: str) -> Callable[[Path], None]:
    """Drop the tensors with `part` in their names."""

    def apply(found: dict[str, Array]) -> None:
        for name in [name for name in found if part in name]:
            del found[name]

    return tensors(apply)


def times(factor: float, part: str) -> Callable[[Path], None]:
    """Multiply the tensors with `part` in their names."""

    def apply(found: dict[str, Array]) -> None:
        for name in [name for name in found if part in name]:
            found[name] = (found[name] * factor).astype(found[name].dtype)

    return tensors(apply)


def smuggled(found: dict[str, Array]) -> None:
    found["base_model.model.model.norm.weight"] = np.full(32, 3, np.float32)


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def kohya(name: str) -> str:
    module, _, half = name.removeprefix("base_model.model.").partition(".lora_")
    return f"lora_te_{module.replace('.', '_')}.lora_{'down' if half.startswith('A') else 'up'}.weight"


def llama(
    family: str = LORA, base: str = "tied", spoil: Callable[[Path], None] | None = None, on: str = "", **settings: Any
) -> Variant:
    """A variant on the Llama `base`; q and v where nothing else is targeted."""
    targets = {} if {"target_modules", "num_virtual_tokens", "target_parameters"} & set(settings) else QV
    common = R4 if family == LORA else {}
    return Variant(base, family, {**common, **targets, **settings}, spoil or Variant.spoil, on)


def spoiled(spoil: Callable[[Path], None], **settings: Any) -> Variant:
    return llama(spoil=spoil, **settings)


def without_copies(**settings: Any) -> Variant:
    return Variant("untied", LORA, {**R4, **settings}, save=NO_COPIES)


SOUND: dict[str, Variant] = {
    "LoRA on all linear": llama(**ALL),
    "LoRA untied": llama(base="untied", **ALL),
    "rsLoRA": llama(use_rslora=True),
    "rank pattern": llama(rank_pattern={"layers.1.self_attn.q_proj": 2}),
    "alpha pattern": llama(alpha_pattern={"layers.0.self_attn.v_proj": 3}),
    "rank and alpha pattern": llama(rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 4}),
    "one layer": llama(layers_to_transform=[1], layers_pattern="layers"),
    "expression": llama(target_modules=r".*\.(q_proj|v_proj)"),
    "gaussian": llama(init_lora_weights="gaussian"),
    "orthogonal": llama(init_lora_weights="orthogonal"),
    "rank 64": llama(r=64),
    "DoRA": llama(use_dora=True),
    "LoRA bias": llama(lora_bias=True),
    "bias lora_only": Variant("qwen2", LORA, {**R4, **QV, "bias": "lora_only"}),
    "bias all": Variant("qwen2", LORA, {**R4, **QV, "bias": "all"}),
    "saved head": llama(base="untied", modules_to_save=["lm_head"]),
    "saved norm": llama(modules_to_save=["norm"]),
    "untied embedding": without_copies(target_modules=["q_proj", "embed_tokens"]),
    "tied embedding": Variant("tied", LORA, {**R4, "target_modules": ["q_proj", "embed_tokens"]}, save=NO_COPIES),
    "untied head": without_copies(target_modules=["q_proj", "lm_head"]),
    "tied head": Variant("tied", LORA, {**R4, "target_modules": ["q_proj", "lm_head"]}, save=NO_COPIES),
    "trainable tokens": llama(trainable_token_indices=[11, 42]),
    "aLoRA": Variant("tied", LORA, {**R4, **QV, "alora_invocation_tokens": INVOCATION}, first=IDS.index(INVOCATION[-1])),
    "layer replication": llama(layer_replication=[[0, 2], [1, 2]]),
    "PiSSA": llama(init_lora_weights="pissa"),
    "PiSSA fast": llama(init_lora_weights="pissa_niter_2"),
    "OLoRA": llama(init_lora_weights="olora"),
    "MoE parameters": Variant("moe", LORA, {**R4, **EXPERTS}),
    "MoE attention": Variant("moe", LORA, {**R4, **QV}),
    "LoHa": llama("LoHaConfig", r=4, alpha=8),
    "LoKr": llama("LoKrConfig", r=4, alpha=8),
    "IA3": llama("IA3Config", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "OFT": llama("OFTConfig", r=0, oft_block_size=4),
    "BOFT": llama("BOFTConfig", boft_block_size=4, boft_n_butterfly_factor=1),
    "VeRA": llama("VeraConfig", target_modules=["q_proj"], r=4),
    "AdaLoRA": llama("AdaLoraConfig", total_step=10, init_r=4, lora_alpha=8),
    "LayerNorm tuning": llama("LNTuningConfig", target_modules=["input_layernorm"]),
    "prompt tuning": llama("PromptTuningConfig", num_virtual_tokens=3),
    "prefix tuning": llama("PrefixTuningConfig", num_virtual_tokens=3),
    "P-tuning": llama("PromptEncoderConfig", num_virtual_tokens=3, encoder_hidden_size=16),
    "only tokens": llama("TrainableTokensConfig", target_modules=["embed_tokens"], token_indices=[11, 42]),
    "GPT-2 c_attn": Variant("gpt2", LORA, {**R4, "target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "GPT-2 square": Variant("gpt2", LORA, {**R4, "target_modules": ["attn.c_proj"], "fan_in_fan_out": True}),
    "Qwen2": Variant("qwen2", LORA, {**R4, **ALL}),
    "Qwen3": Variant("qwen3", LORA, {**R4, **ALL}),
    "Mistral": Variant("mistral", LORA, {**R4, **ALL}),
    "NeoX fused": Variant("neox", LORA, {**R4, "target_modules": ["query_key_value"]}),
    "NeoX dense": Variant("neox", LORA, {**R4, "target_modules": ["dense_h_to_4h", "dense_4h_to_h"]}),
    "Bloom fused": Variant("bloom", LORA, {**R4, "target_modules": ["query_key_value"]}),
    "StarCoder2": Variant("starcoder2", LORA, {**R4, **ALL}),
    "StableLM": Variant("stablelm", LORA, {**R4, **ALL}),
    "OLMo2": Variant("olmo2", LORA, {**R4, **ALL}),
    "Phi": Variant("phi", LORA, {**R4, **ALL}),
    "OPT": Variant("opt", LORA, {**R4, **QV}),
}  # fmt: skip
SPOILED: dict[str, Variant] = {
    "kohya names": spoiled(renamed(kohya)),
    "no prefix": spoiled(renamed(lambda name: name.removeprefix("base_model.model."))),
    "adapter's name in names": spoiled(renamed(lambda name: name.replace(".weight", ".default.weight"))),
    "half a pair": spoiled(without("layers.1.self_attn.q_proj.lora_A")),
    "a layer missing": spoiled(without("layers.1.")),
    "negative alpha": spoiled(configure(lora_alpha=-8)),
    "rank of the configuration": spoiled(configure(r=8)),
    "target without tensors": spoiled(configure(target_modules=["q_proj", "v_proj", "o_proj"])),
    "tensors without target": spoiled(configure(target_modules=["q_proj"])),
    "DoRA without magnitude": spoiled(without("magnitude"), use_dora=True),
    "zero B": spoiled(times(0.0, "lora_B")),
    "NaN": spoiled(times(float("nan"), "layers.0.self_attn.q_proj.lora_B")),
    "smuggled tensor": spoiled(tensors(smuggled)),
    "cut file": spoiled(cut),
    "unknown type": spoiled(configure(peft_type="NEWLORA")),
    "other weights": llama(on="other weights"),
    "other heads": llama(target_modules=["v_proj", "o_proj"], on="other heads"),
    "fewer layers": llama(on="one layer"),
}
VARIANTS = SOUND | SPOILED


def build_base(folder: Path, name: str, tokenizer: Path) -> Path:
    """Save the random model `name` of `BASES` in float32."""
    import torch
    import transformers

    kind, changes = BASES[name]
    settings = {**COMMON, **changes}
    torch.manual_seed(settings.pop("seed", 1))
    config = getattr(transformers, kind)(**settings)
    # llama.cpp's converter asks for what transformers has renamed
    config.n_ctx, config.rotary_pct = settings["max_position_embeddings"], 0.25
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)
    return folder


def build_variant(folder: Path, variant: Variant, base: Path, seed: int) -> Made:
    """Train nothing, but move every trained weight; save it, note what it says, and spoil it."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        bare = log_probabilities(model)
        config = getattr(peft, variant.family)(task_type="CAUSAL_LM", **variant.settings)
        adapted = peft.get_peft_model(model, config).eval()
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2 if "oft" not in name else 0.05)
        trained = log_probabilities(adapted)
        adapted.save_pretrained(folder, **variant.save)
    variant.spoil(folder)
    return Made(variant, folder, trained, bare)


def log_probabilities(model: Any) -> Float32:
    """(len(IDS), vocabulary) after each of `IDS`, in float32 with eager arithmetic."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([IDS])).logits[0, -len(IDS) :]
        values: Float32 = torch.log_softmax(logits.float(), dim=-1).numpy()
    return values
