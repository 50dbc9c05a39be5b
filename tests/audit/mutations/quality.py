"""Mutations that rules of adreg/audit/rules/{quality,spectral}.py must find."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from adreg.audit.subject import PromptProbe, Subject
from adreg.formats.bases.checkpoint import open_checkpoint
from tests.audit.clean import Clean
from tests.audit.mutations import Array, Mutation, configure, lora, tensors

Tensors = dict[str, Array]
DEPTH = 8
PRODUCTS = ("LoraConfig", "LoHaConfig", "LoKrConfig", "VeraConfig", "AdaLoraConfig", "OFTConfig", "IA3Config")
ENDS = (".lora_B.weight", "lora_embedding_B", "hada_w2_b", "lokr_w1", "vera_lambda_b", "lora_E", "oft_R.weight", "ia3_l")


def low_rank(clean: Clean) -> bool:
    """LoRA whose every tensor the plain view knows."""
    return lora(clean) and clean.name != "moe parameters"


def stackable(clean: Clean) -> bool:
    """Whose two layers can be copied to eight: neither patterns nor names of layers."""
    return low_rank(clean) and clean.name not in ("qwen2 rsLoRA", "mistral one layer", "untied embedding", "llama LoRA")


def products(clean: Clean) -> bool:
    return clean.recipe.family in PRODUCTS


def poison(value: float) -> Callable[[Tensors], None]:
    def change(loaded: Tensors) -> None:
        name = next(name for name in sorted(loaded) if loaded[name].size)
        loaded[name].flat[1] = value

    return change


def silence(*ends: str) -> Callable[[Tensors], None]:
    """Set every tensor with such an end to zero, those of IA3 to one."""

    def change(loaded: Tensors) -> None:
        for name, value in loaded.items():
            if name.endswith(ends):
                value[...] = 1 if name.endswith("ia3_l") else 0

    return change


def silence_one(loaded: Tensors) -> None:
    name = next(name for name in sorted(loaded) if name.endswith(ENDS))
    loaded[name][...] = 1 if name.endswith("ia3_l") else 0


def scaled(by: float) -> Callable[[Tensors], None]:
    def change(loaded: Tensors) -> None:
        for name, value in loaded.items():
            if name.endswith((".lora_B.weight", "lora_embedding_B")):
                value *= np.asarray(by, dtype=value.dtype)

    return change


def enormous(loaded: Tensors) -> None:
    name = next(name for name in sorted(loaded) if name.endswith(".lora_A.weight"))
    loaded[name].flat[0] = 70000


def halve_one_type(loaded: Tensors) -> None:
    name = next(name for name in sorted(loaded) if name.endswith("lora_A.weight"))
    loaded[name] = loaded[name].astype(np.float16)


def last_layer_deeper(loaded: Tensors) -> None:
    """Call layer 1 layer 3, so that 1 and 2 are missing."""
    for name in list(loaded):
        loaded[re.sub(r"\.1\.", ".3.", name, count=1)] = loaded.pop(name)


def stacked(loaded: Tensors) -> None:
    """Layers 0 and 1 once more as 2 to 7, a little different each."""
    for name in list(loaded):
        match = re.search(r"\.([01])\.", name)
        for layer in range(2, DEPTH) if match else ():
            if match and int(match[1]) == layer % 2:
                copy = f"{name[: match.start()]}.{layer}.{name[match.end() :]}"
                loaded[copy] = (loaded[name].astype(np.float32) * (1 + 0.05 * layer)).astype(loaded[name].dtype)


def stack_and(change: Callable[[Tensors], None]) -> Callable[[Path], None]:
    def both(loaded: Tensors) -> None:
        stacked(loaded)
        change(loaded)

    return tensors(both)


def one_stronger(by: float) -> Callable[[Tensors], None]:
    def change(loaded: Tensors) -> None:
        for name in sorted(loaded):
            if ".5." in name and name.endswith(".lora_B.weight"):
                loaded[name] = (loaded[name].astype(np.float32) * by).astype(loaded[name].dtype)
                return

    return change


def one_direction(loaded: Tensors) -> None:
    """Keep of every A only its first row."""
    for name, value in loaded.items():
        if name.endswith(("lora_A.weight", "lora_embedding_A")):
            value[1:] = 0


def strong_layer_of_one_direction(loaded: Tensors) -> None:
    for name, value in loaded.items():
        if ".5." in name and name.endswith("lora_A.weight"):
            value[1:] = 0
        if ".5." in name and name.endswith("lora_B.weight"):
            value *= np.asarray(100, dtype=value.dtype)


def wider(loaded: Tensors) -> None:
    """Rank 32 of which only the first 4 directions are used."""
    for name, value in list(loaded.items()):
        if name.endswith(("lora_A.weight", "lora_embedding_A")):
            loaded[name] = np.concatenate([value, np.zeros((32 - value.shape[0], *value.shape[1:]), value.dtype)])
        elif name.endswith(("lora_B.weight", "lora_embedding_B")):
            loaded[name] = np.concatenate([value, np.zeros((value.shape[0], 32 - value.shape[1]), value.dtype)], axis=1)


def widen(folder: Path) -> None:
    tensors(wider)(folder)
    configure(r=32, lora_alpha=64, rank_pattern={}, alpha_pattern={})(folder)


def without_base(subject: Subject) -> Subject:
    return replace(subject, base=None, trained_on=None)


def on_its_weights(subject: Subject) -> Subject:
    """As a deep audit sees it: the base lies two folders beside the adapter."""
    assert subject.base is not None
    folder = WEIGHTS_OF[subject.base.name]
    return replace(subject, weights=open_checkpoint(folder))


WEIGHTS_OF: dict[str, Path] = {}


def remember(clean: Clean) -> bool:
    """Note where the base of `clean` lies, for `on_its_weights`."""
    WEIGHTS_OF[clean.card.name] = clean.base
    return low_rank(clean)


def probed(change: float, has_nan: bool = False) -> Callable[[Subject], Subject]:
    probes = tuple(PromptProbe(prompt, change, change, -2.0, -2.0, has_nan) for prompt in ("one", "two"))
    return lambda subject: replace(subject, probe=probes)


STRAY = frozenset({"S-BKD-1", "Q-NRM-1", "Q-INT-1", "Q-NRM-2", "Q-STD-1", "Q-KRT-1"})
MUTATIONS: tuple[Mutation, ...] = (
    Mutation("Q-NAN-1", tensors(poison(float("nan"))), label="NaN"),
    Mutation("Q-NAN-1", tensors(poison(float("inf"))), label="infinity"),
    Mutation("Q-ZERO-1", tensors(silence(*ENDS)), applies_to=products, label="B"),
    Mutation("Q-ZERO-1", tensors(silence(".lora_A.weight", "lora_embedding_A")), applies_to=low_rank, label="A"),
    Mutation("Q-ZERO-2", tensors(silence_one), applies_to=lambda clean: products(clean) and clean.name != "moe parameters"),
    Mutation("Q-OVF-1", tensors(enormous), STRAY | {"Q-RNK-1"}, low_rank, label="too large"),
    Mutation("Q-OVF-1", tensors(scaled(1e-6)), applies_to=low_rank, label="too small"),
    Mutation("Q-DTY-1", tensors(halve_one_type), applies_to=low_rank),
    Mutation(
        "Q-DEP-1",
        tensors(last_layer_deeper),
        applies_to=lambda clean: stackable(clean) and clean.name != "opt LoRA expression",
        alter=without_base,
    ),
    Mutation("Q-NRM-2", stack_and(one_stronger(40)), STRAY, stackable, without_base),
    Mutation("Q-RNK-1", tensors(one_direction), STRAY, low_rank),
    Mutation("Q-RNK-2", widen, applies_to=low_rank),
    Mutation("Q-STD-1", stack_and(one_stronger(1000)), STRAY, stackable, without_base),
    Mutation("Q-KRT-1", stack_and(strong_layer_of_one_direction), STRAY, stackable, without_base),
    Mutation("Q-NRM-1", tensors(scaled(100)), STRAY, remember, on_its_weights),
    Mutation("Q-INT-1", tensors(scaled(100)), STRAY, remember, on_its_weights),
    Mutation("Q-BEH-1", alter=probed(0.0), label="no effect"),
    Mutation("Q-BEH-1", alter=probed(float("nan"), has_nan=True), label="NaN"),
    Mutation("Q-BEH-1", alter=lambda subject: replace(subject, probe_failure="ValueError: no"), label="not loaded"),
)
