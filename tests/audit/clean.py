"""Clean adapters: real PEFT adapters on tiny real models of different architectures and families, built once a session.

Each names its base by a hub id with a commit, and carries the base's tokenizer and the record of its making, as a careful
trainer's does, and is judged for the engine that can take it: adreg for plain LoRA, PEFT for the rest.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adreg.audit.basecard import BaseCard, make_card
from adreg.audit.subject import Subject
from adreg.formats.adapters.adapter import RECORD
from adreg.formats.adapters.inspection import inspect_folder
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.bases.fingerprint import fingerprint
from adreg.formats.text.tokenizer import TokenizerFiles

VOCABULARY = 320
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
HEADS = {"head_dim": 8}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1, **HEADS}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": True}),
    "untied": ("LlamaConfig", {"tie_word_embeddings": False}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", HEADS),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "gemma2": ("Gemma2Config", HEADS),
    "phi3": ("Phi3Config", {"num_key_value_heads": 4}),
    "neox": ("GPTNeoXConfig", {}),
    "opt": ("OPTConfig", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "qwen3moe": ("Qwen3MoeConfig", MOE),
}
QV = {"target_modules": ["q_proj", "v_proj"]}
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8}
PROMPT: dict[str, Any] = {"num_virtual_tokens": 3}


@dataclass(frozen=True)
class Recipe:
    """How a clean adapter is made: the base, PEFT's configuration class and its settings, the engine that takes it."""

    base: str
    family: str
    settings: dict[str, Any]
    target: str = "adreg"
    dtype: str = "float32"
    save: dict[str, Any] = field(default_factory=dict)


ONE_LAYER = {"layers_to_transform": [1], "layers_pattern": "layers"}
IA3 = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
PATTERNS = {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"layers.0.self_attn.v_proj": 3}}
RECIPES: dict[str, Recipe] = {
    "llama LoRA": Recipe("llama", "LoraConfig", {**LORA, "target_modules": "all-linear"}),
    "gpt2 LoRA": Recipe("gpt2", "LoraConfig", {**LORA, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "qwen2 rsLoRA": Recipe("qwen2", "LoraConfig", {**LORA, **QV, "use_rslora": True, **PATTERNS}),
    "mistral one layer": Recipe("mistral", "LoraConfig", {**LORA, **QV, **ONE_LAYER}),
    "gemma2 LoRA bf16": Recipe("gemma2", "LoraConfig", {**LORA, **QV}, dtype="bfloat16"),
    "phi3 LoRA": Recipe("phi3", "LoraConfig", {**LORA, "target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]}),
    "neox LoRA": Recipe("neox", "LoraConfig", {**LORA, "target_modules": ["query_key_value", "dense"]}),
    "opt LoRA expression": Recipe("opt", "LoraConfig", {**LORA, "target_modules": r".*\.(q_proj|v_proj)"}),
    "qwen3 DoRA": Recipe("qwen3", "LoraConfig", {**LORA, **QV, "use_dora": True}, "peft"),
    "llama bias": Recipe("llama", "LoraConfig", {**LORA, **QV, "lora_bias": True}, "peft"),
    "moe parameters": Recipe(
        "qwen3moe", "LoraConfig",
        {**LORA, "target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
        "peft",
    ),
    "untied saved head": Recipe("untied", "LoraConfig", {**LORA, **QV, "modules_to_save": ["lm_head"]}, "peft"),
    "untied embedding": Recipe(
        "untied", "LoraConfig", {**LORA, "target_modules": ["q_proj", "embed_tokens", "lm_head"]}, "peft",
        save={"save_embedding_layers": False},
    ),
    "llama tokens": Recipe("llama", "LoraConfig", {**LORA, **QV, "trainable_token_indices": [5, 9]}, "peft"),
    "llama LoHa": Recipe("llama", "LoHaConfig", {**QV, "r": 4, "alpha": 8}, "peft"),
    "mistral LoKr": Recipe("mistral", "LoKrConfig", {**QV, "r": 4, "alpha": 8}, "peft"),
    "qwen2 IA3": Recipe("qwen2", "IA3Config", IA3, "peft"),
    "llama OFT": Recipe("llama", "OFTConfig", {**QV, "r": 0, "oft_block_size": 4}, "peft"),
    "qwen3 VeRA": Recipe("qwen3", "VeraConfig", {"target_modules": ["q_proj"], "r": 4}, "peft"),
    "llama AdaLoRA": Recipe("llama", "AdaLoraConfig", {**QV, "total_step": 10, "init_r": 4, "lora_alpha": 8}, "peft"),
    "llama prompt": Recipe("llama", "PromptTuningConfig", PROMPT, "peft"),
    "qwen2 prefix": Recipe("qwen2", "PrefixTuningConfig", PROMPT, "peft"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Clean:
    """One clean adapter: its folder, the folder and the card of its base, and the engine that takes it."""

    name: str
    recipe: Recipe
    folder: Path
    base: Path
    card: BaseCard

    @property
    def target(self) -> str:
        return self.recipe.target

    def subject(self, folder: Path) -> Subject:
        """What the audit sees of `folder`, a copy of this adapter, beside the base that it was trained on."""
        return Subject(inspect_folder(folder), self.card.ids, self.card, target=self.target, tokenizer=TokenizerFiles(folder))


def build_clean_set(folder: Path) -> dict[str, Clean]:
    """Every adapter of `RECIPES`, by name, in `folder`."""
    tokenizer = build_tokenizer(folder / "tokenizer")
    bases = {name: build_base(folder / "bases" / name, name, tokenizer) for name in BASES}
    cards = {
        name: make_card(f"example/{name}", found := open_checkpoint(base), fingerprint(found)[0])
        for name, base in bases.items()
    }
    made = {}
    for seed, (name, recipe) in enumerate(RECIPES.items()):
        place = build_one(folder / "adapters" / name.replace(" ", "-"), recipe, bases[recipe.base], tokenizer, seed)
        record_base(place, cards[recipe.base])
        made[name] = Clean(name, recipe, place, bases[recipe.base], cards[recipe.base])
    return made


def build_tokenizer(folder: Path) -> Path:
    """A byte-level tokenizer of `VOCABULARY` tokens at most, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(
        ["the quick brown fox jumps over the lazy dog, says the lighthouse to the lighthouse"] * 20, trainer
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    return folder


def build_base(folder: Path, name: str, tokenizer: Path) -> Path:
    """Save a random model of the kind `name` of `BASES`."""
    import torch
    import transformers

    config, changes = BASES[name]
    torch.manual_seed(len(name))
    made = getattr(transformers, config)(**{**COMMON, **changes})
    transformers.AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    return folder


def build_one(folder: Path, recipe: Recipe, base: Path, tokenizer: Path, seed: int) -> Path:
    """Save the adapter of `recipe` with random trained weights, small enough to be a training's."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    settings = {"task_type": "CAUSAL_LM", **recipe.settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        adapted = peft.get_peft_model(model, getattr(peft, recipe.family)(**settings))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.02)
        adapted = adapted.to(getattr(torch, recipe.dtype))
        config = adapted.peft_config["default"]
        config.base_model_name_or_path, config.revision = f"example/{recipe.base}", COMMIT
        adapted.save_pretrained(folder, **recipe.save)
        trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    write_record(folder, recipe, trainable)
    return folder


def write_record(folder: Path, recipe: Recipe, trainable: int) -> None:
    """adreg.json as a training writes it, without the base's ids."""
    asked = {"r": recipe.settings.get("r"), "alpha": recipe.settings.get("lora_alpha")}
    lora = asked if recipe.family == "LoraConfig" else {}
    record = {
        "id": "0123456789ab",
        "started": "2026-01-01T00:00:00+00:00",
        "outcome": "finished",
        "base": {},
        "config": {"lora": lora},
        "data": [{"path": "rows.jsonl", "sha256": "0" * 64}],
        "versions": {"adreg": "0"},
        "trainable": trainable,
        "losses": [],
        "eval": {},
    }
    (folder / RECORD).write_text(json.dumps(record))


def record_base(folder: Path, card: BaseCard) -> None:
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({**record, "base": {"name": card.name, **vars(card.ids)}}))
