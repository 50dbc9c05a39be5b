"""Mutations that rules of adreg/audit/rules/readiness.py must find: clean adapters judged for another engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from adreg.audit.subject import Subject
from tests.audit.clean import Clean
from tests.audit.mutations import Array, Mutation, configure, tensors
from tests.audit.mutations.base import with_card, with_fused_attention

PLAIN = ("llama LoRA", "mistral one layer", "gemma2 LoRA bf16", "phi3 LoRA", "neox LoRA")
FEATURED = ("qwen3 DoRA", "llama bias", "untied saved head", "llama tokens")
IN_BOTH = ("llama LoRA", "gemma2 LoRA bf16", "phi3 LoRA", "moe parameters", "untied embedding")
ON_VLLM = (*IN_BOTH[:-1], "mistral one layer", "opt LoRA expression")


def judged_for(target: str) -> Callable[[Subject], Subject]:
    return lambda subject: replace(subject, target=target)


def named(*names: str) -> Callable[[Clean], bool]:
    return lambda clean: clean.name in names


def other_family(clean: Clean) -> bool:
    return clean.recipe.family != "LoraConfig"


def widened(rank: int) -> Callable[[Path], None]:
    """Give every pair `rank` by repeating its rows and columns, which keeps each a pair."""

    def apply(found: dict[str, Array]) -> None:
        for name, value in found.items():
            axis = 0 if "lora_A" in name else 1
            times = -(-rank // value.shape[axis])
            kept = np.concatenate([value * 0.999**step for step in range(times)], axis=axis)
            found[name] = np.take(kept, range(rank), axis=axis).astype(value.dtype)

    def both(folder: Path) -> None:
        tensors(apply)(folder)
        configure(r=rank, lora_alpha=2 * rank, rank_pattern={}, alpha_pattern={})(folder)

    return both


def without_magnitudes(found: dict[str, Array]) -> None:
    for name in [name for name in found if "magnitude" in name]:
        del found[name]


def as_position_embedding(folder: Path) -> None:
    def rename(found: dict[str, Array]) -> None:
        for name in list(found):
            found[name.replace("embed_tokens", "wpe")] = found.pop(name)

    tensors(rename)(folder)
    configure(target_modules=["q_proj", "wpe", "lm_head"])(folder)


def renamed(old: str, new: str) -> Callable[[Path], None]:
    """Other paths for the modules whose names begin with `old`."""

    def rename(found: dict[str, Array]) -> None:
        for name in list(found):
            found[name.replace(f"base_model.model.{old}", f"base_model.model.{new}")] = found.pop(name)

    return tensors(rename)


def on_fused_attention(subject: Subject) -> Subject:
    return with_card(with_fused_attention)(judged_for("vllm")(subject))


def on_a_tied_base(subject: Subject) -> Subject:
    return replace(subject, target="llama.cpp", base=replace(subject.card, tied=True))


SPECTRAL = frozenset({"Q-RNK-1", "Q-RNK-2", "X-VLLM-1"})
PATHS = frozenset({"K-KEY-4"})
MUTATIONS: tuple[Mutation, ...] = (
    Mutation("X-ENG-1", alter=judged_for("vllm"), applies_to=other_family, label="vllm"),
    Mutation("X-ENG-1", alter=judged_for("llama.cpp"), applies_to=other_family, label="llama.cpp"),
    Mutation("X-ENG-1", alter=judged_for("ollama"), applies_to=other_family, label="ollama"),
    Mutation("X-ENG-2", alter=judged_for("vllm"), applies_to=named(*FEATURED), label="vllm"),
    Mutation(
        "X-ENG-2",
        alter=judged_for("llama.cpp"),
        applies_to=named(*FEATURED, "qwen2 rsLoRA", "moe parameters"),
        label="llama.cpp",
    ),
    Mutation("X-ENG-3", widened(520), SPECTRAL, named("mistral one layer", "neox LoRA"), judged_for("vllm"), "beyond 512"),
    Mutation("X-ENG-3", widened(24), SPECTRAL, named("mistral one layer", "neox LoRA"), judged_for("vllm"), "beyond 16"),
    Mutation("X-VLLM-1", renamed("model.", ""), PATHS, named(*ON_VLLM), judged_for("vllm"), "trained on the backbone"),
    Mutation("X-VLLM-1", alter=judged_for("vllm"), applies_to=named("gpt2 LoRA", "neox LoRA"), label="no LoRA layers"),
    Mutation(
        "X-VLLM-2", renamed("model.layers.1.", "layers.1."), PATHS, named(*IN_BOTH), judged_for("vllm"), "a layer ignored"
    ),
    Mutation(
        "X-VLLM-2",
        alter=on_fused_attention,
        consequences=frozenset({"B-SHP-1", "B-SHP-4"}),
        applies_to=named("llama LoRA"),
        label="fused",
    ),
    Mutation("X-ENG-4", alter=judged_for("llama.cpp"), applies_to=named("opt LoRA expression"), label="OPT"),
    Mutation("X-ENG-5", tensors(without_magnitudes), applies_to=named("qwen3 DoRA"), label="PEFT"),
    Mutation("X-GGUF-1", alter=judged_for("llama.cpp"), applies_to=named("gpt2 LoRA"), label="GPT-2"),
    Mutation(
        "X-GGUF-2",
        consequences=frozenset({"B-TIE-1"}),
        alter=on_a_tied_base,
        applies_to=named("untied embedding"),
        label="tied",
    ),
    Mutation(
        "X-OLL-1",
        alter=judged_for("ollama"),
        applies_to=named(*PLAIN),
        label="ollama",
    ),
    Mutation(
        "X-VLLM-2",
        as_position_embedding,
        frozenset({"B-SHP-1", "B-SHP-4", "B-DUP-1"}),
        named("untied embedding"),
        judged_for("vllm"),
        "wpe",
    ),
)
