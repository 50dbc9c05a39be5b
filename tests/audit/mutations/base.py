"""Mutations that rules of adreg/audit/rules/base.py and shapes.py must find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from adreg.audit.basecard import BaseCard, Relative
from adreg.audit.subject import Subject
from tests.audit.clean import Clean
from tests.audit.mutations import Array, Mutation, configure, everywhere, tensors

OTHER = "b3:" + "0" * 64
MODULES = ("LoraConfig", "LoHaConfig", "LoKrConfig", "IA3Config", "OFTConfig", "VeraConfig", "AdaLoraConfig")
KEYS = frozenset({"K-KEY-1", "K-KEY-4"})


def with_card(change: Callable[[BaseCard], BaseCard]) -> Callable[[Subject], Subject]:
    def alter(subject: Subject) -> Subject:
        return replace(subject, base=change(subject.card))

    return alter


def with_ids(**changes: Any) -> Callable[[Subject], Subject]:
    """The base at hand has other ids."""
    return with_card(lambda card: replace(card, ids=replace(card.ids, **changes)))


def renamed(name: str, **changes: Any) -> Callable[[Subject], Subject]:
    """The base at hand has other ids and another name; `{}` in it is the recorded one."""

    def alter(subject: Subject) -> Subject:
        claim = str(subject.raw["base_model_name_or_path"])
        return replace(subject, base=replace(with_ids(**changes)(subject).card, name=name.format(claim)))

    return alter


WEIGHTS = {"weights_id": OTHER, "content_id": OTHER, "values_id": OTHER}


def related(to_training: bool) -> Callable[[Subject], Subject]:
    """The base at hand is a quantised copy, of the base of the training or of another."""

    def alter(subject: Subject) -> Subject:
        origin = subject.card.ids.weights_id if to_training else "b3:" + "1" * 64
        relative = Relative("example/original", origin, "QUANT-OF", 0.99, "sketch", True, True)
        return with_card(lambda card: replace(card, relatives=(relative,)))(with_ids(**WEIGHTS)(subject))

    return alter


def without_half_the_layers(card: BaseCard) -> BaseCard:
    """Layer 1 of 2 is missing."""
    kept = {name: shape for name, shape in card.shapes.items() if ".1." not in name.replace("experts.1.", "")}
    return replace(card, shapes=kept)


def with_more_layers(card: BaseCard) -> BaseCard:
    more = {name.replace(".1.", ".2.", 1): shape for name, shape in card.shapes.items()}
    return replace(card, shapes={**more, **card.shapes})


def twice_as_wide(card: BaseCard) -> BaseCard:
    """Every size but the vocabulary's doubles."""
    shapes = {name: tuple(size if size == 320 else 2 * size for size in shape) for name, shape in card.shapes.items()}
    return replace(card, shapes=shapes)


def with_more_tokens(card: BaseCard) -> BaseCard:
    shapes = {name: tuple(384 if size == 320 else size for size in shape) for name, shape in card.shapes.items()}
    return replace(card, shapes=shapes)


def with_fused_attention(card: BaseCard) -> BaseCard:
    """One qkv_proj in place of three, as other tools save it."""
    shapes = {name: shape for name, shape in card.shapes.items() if not any(f".{end}_proj." in name for end in "qkv")}
    fused = {name.replace("q_proj", "qkv_proj"): (64, 32) for name in card.shapes if ".q_proj.weight" in name}
    return replace(card, shapes={**shapes, **fused})


def plant(name: str) -> Callable[[dict[str, Array]], None]:
    def change(found: dict[str, Array]) -> None:
        found[name] = np.zeros(32, dtype=np.float32)

    return change


def adapts_modules(clean: Clean) -> bool:
    return clean.recipe.family in MODULES


def in_both_layers(clean: Clean) -> bool:
    return adapts_modules(clean) and "layers_to_transform" not in clean.recipe.settings


def on_tables(clean: Clean) -> bool:
    return clean.name in ("untied saved head", "untied embedding")


def named(*names: str) -> Callable[[Clean], bool]:
    return lambda clean: clean.name in names


def tie(card: BaseCard) -> BaseCard:
    return replace(card, tied=True)


# what target_modules asks for of the base, where it is an expression
EXPRESSION = frozenset({"K-KEY-4"})
MUTATIONS: tuple[Mutation, ...] = (
    Mutation("B-ID-1", alter=renamed("example/elsewhere", **WEIGHTS), label="other weights"),
    Mutation("B-ID-1", alter=with_ids(arch_id=OTHER, **WEIGHTS), label="another architecture"),
    Mutation("B-ID-1", alter=with_ids(weights_id=OTHER), label="the same tensors in other files"),
    Mutation("B-ID-1", alter=lambda subject: replace(subject, trained_on=None), label="nobody recorded it"),
    Mutation("B-ID-2", configure(revision="main"), label="a branch"),
    Mutation("B-ID-2", configure(revision="v1.0"), label="a tag"),
    Mutation(
        "B-ID-2", alter=lambda subject: with_card(lambda card: replace(card, commit="f" * 40))(with_ids(**WEIGHTS)(subject)),
        consequences=frozenset({"B-ID-3"}), label="another commit",
    ),
    Mutation("B-ID-3", alter=with_ids(**WEIGHTS), label="the repository moved on"),
    Mutation("B-ID-4", alter=renamed("{}-Instruct", **WEIGHTS), label="a chat model"),
    Mutation("B-ID-4", alter=renamed("{}-it", **WEIGHTS), label="a chat model by its short name"),
    Mutation("B-CFG-1", alter=with_ids(cfg_id=OTHER), label="other heads of the same shapes"),
    Mutation("B-QNT-1", alter=related(to_training=True), label="a copy of the training's base"),
    Mutation("B-QNT-2", alter=related(to_training=False), label="a copy of another"),
    Mutation("B-SHP-1", alter=with_card(without_half_the_layers), applies_to=adapts_modules, label="half the layers"),
    Mutation("B-SHP-1", alter=with_card(with_fused_attention), applies_to=named("qwen2 rsLoRA", "llama LoHa"), label="fused"),
    Mutation("B-SHP-2", alter=with_card(twice_as_wide), applies_to=everywhere, label="twice as wide"),
    Mutation("B-SHP-3", alter=with_card(with_more_tokens), applies_to=on_tables, label="another vocabulary"),
    Mutation(
        "B-SHP-3", configure(trainable_token_indices=[5, 5000]), frozenset({"K-KEY-4", "K-CFG-8"}), named("llama tokens"),
        label="a token that is none",
    ),
    Mutation("B-SHP-4", alter=with_card(with_more_layers), consequences=EXPRESSION, applies_to=in_both_layers, label="more"),
    Mutation("B-TIE-1", alter=with_card(tie), applies_to=on_tables, label="tied"),
    Mutation(
        "B-DUP-1", tensors(plant("base_model.model.model.norm.weight")), KEYS, named("llama LoRA", "llama LoHa", "qwen3 DoRA"),
        label="with PEFT's prefix",
    ),
    Mutation("B-DUP-1", tensors(plant("model.norm.weight")), KEYS, named("llama LoRA", "llama OFT"), label="plain"),
)  # fmt: skip
