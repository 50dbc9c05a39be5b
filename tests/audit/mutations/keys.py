"""Mutations that rules of adreg/audit/rules/keys.py and config.py must find."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from adreg.audit.subject import Subject
from tests.audit.clean import Clean
from tests.audit.mutations import CONFIG, Array, Mutation, configure, lora, plain, tensors

PREFIX = "base_model.model."
HANG = "(a+)+$"
ALL = frozenset({"F-EMP-1", "K-KEY-1", "K-KEY-2", "K-KEY-4"})


def pairs(loaded: dict[str, Array]) -> list[tuple[str, str]]:
    """The names of A and B of every module."""
    return [(name, name.replace(".lora_A", ".lora_B")) for name in sorted(loaded) if ".lora_A." in name]


def has_pairs(clean: Clean) -> bool:
    return clean.recipe.family == "LoraConfig"


def smuggle(loaded: dict[str, Array]) -> None:
    loaded[f"{PREFIX}model.layers.1.input_layernorm.weight"] = np.ones(32, np.float32)


def smuggle_plain(loaded: dict[str, Array]) -> None:
    loaded["model.embed_tokens.weight"] = np.ones((8, 8), np.float32)


def drop_b(loaded: dict[str, Array]) -> None:
    del loaded[pairs(loaded)[0][1]]


def transpose(loaded: dict[str, Array]) -> None:
    name = pairs(loaded)[0][0]
    loaded[name] = loaded[name].T


def drop_part(loaded: dict[str, Array]) -> None:
    name = next(
        name for name in sorted(loaded) if any(part in name for part in ("hada_w1_a", "lokr_w1", "vera_lambda_b", "lora_E"))
    )
    del loaded[name]


def rename(change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(loaded: dict[str, Array]) -> None:
        for name in list(loaded):
            loaded[change(name)] = loaded.pop(name)

    return tensors(apply)


def rename_pair(change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(loaded: dict[str, Array]) -> None:
        for name in pairs(loaded)[0]:
            loaded[change(name)] = loaded.pop(name)

    return tensors(apply)


def named(name: str) -> str:
    return name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")


def without_lora(name: str) -> str:
    return name.replace(".lora_A.", "_A.").replace(".lora_B.", "_B.")


def base_copy(loaded: dict[str, Array]) -> None:
    loaded[f"{PREFIX}model.embed_tokens.base_layer.weight"] = np.ones((320, 32), np.float32)


def double(loaded: dict[str, Array]) -> None:
    for name in pairs(loaded)[0]:
        loaded[name.removeprefix(PREFIX)] = loaded[name].copy()


def lower(loaded: dict[str, Array]) -> None:
    a, b = pairs(loaded)[0]
    loaded[a], loaded[b] = loaded[a][:1], loaded[b][:, :1]


def lower_hada(loaded: dict[str, Array]) -> None:
    name = next(name for name in sorted(loaded) if name.endswith("hada_w1_b"))
    loaded[name] = loaded[name][:2]
    loaded[name.replace("w1_b", "w1_a")] = loaded[name.replace("w1_b", "w1_a")][:, :2]


def whole_layer(folder: Path) -> None:
    configure(modules_to_save=["layers"])(folder)

    def add(loaded: dict[str, Array]) -> None:
        loaded[f"{PREFIX}model.layers.1.mlp.up_proj.weight"] = np.ones((64, 32), np.float32)

    tensors(add)(folder)


def text(old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / CONFIG
        written = path.read_text()
        assert old in written
        path.write_text(written.replace(old, new, 1))

    return apply


def saves_nothing(clean: Clean) -> bool:
    return lora(clean) and "modules_to_save" not in clean.recipe.settings


def unrecorded(subject: Subject) -> Subject:
    """As of an adapter that nobody pushed with its base."""
    return replace(subject, trained_on=None)


def targeted(clean: Clean) -> bool:
    """Whether target_modules is a list, and its tensors bear the modules' names."""
    return "target_modules" in json.loads((clean.folder / CONFIG).read_text()) and clean.name != "opt LoRA expression"


def family(*names: str) -> Callable[[Clean], bool]:
    return lambda clean: clean.recipe.family in names


def by_expression(clean: Clean) -> bool:
    return clean.name == "opt LoRA expression"


# such as a trainer writes; it is tried in a process of its own
UNSLOTH = r"(?:.*?(?:decoder|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj|v_proj).*?)"
SMUGGLED = frozenset({"B-DUP-1"})
UNKNOWN_BASE = frozenset({"B-ID-1"})
RANKS = frozenset({"K-CFG-3"})
READS_R = family("LoraConfig", "LoHaConfig", "LoKrConfig", "VeraConfig", "AdaLoraConfig")
MUTATIONS: tuple[Mutation, ...] = (
    Mutation("K-KEY-1", tensors(smuggle), SMUGGLED, label="a norm of the base"),
    Mutation("K-KEY-1", tensors(smuggle_plain), SMUGGLED, label="the base's embedding"),
    Mutation("K-KEY-2", tensors(drop_b), frozenset({"B-SHP-4"}), has_pairs, label="half a pair"),
    Mutation("K-KEY-2", tensors(transpose), frozenset({"B-SHP-4"}), has_pairs, label="transposed"),
    Mutation(
        "K-KEY-2",
        tensors(drop_part),
        applies_to=family("LoHaConfig", "LoKrConfig", "VeraConfig", "AdaLoraConfig"),
        label="a part",
    ),
    Mutation("K-KEY-3", rename(named), frozenset({"F-EMP-1"}), plain, label="default"),
    Mutation(
        "K-KEY-3", rename_pair(named), frozenset({"K-KEY-4", "B-SHP-4", "Q-DEP-1"}), plain, label="default, of one module"
    ),
    Mutation("K-KEY-3", rename(without_lora), frozenset({"F-EMP-1"}), plain, label="an adapter called lora"),
    Mutation("K-KEY-4", configure(target_modules=["q_proj", "no_such_proj"]), applies_to=targeted, label="no tensors"),
    Mutation("K-KEY-4", configure(target_modules=["out_proj"]), applies_to=targeted, label="other targets"),
    Mutation(
        "K-KEY-4",
        configure(layers_to_transform=[0]),
        applies_to=lambda clean: clean.name == "mistral one layer",
        label="other layers",
    ),
    Mutation("K-KEY-4", configure(target_modules=r".*\.q_proj"), applies_to=by_expression, label="an expression for half"),
    Mutation("K-KEY-4", configure(target_modules=UNSLOTH), applies_to=by_expression, label="a heavy one for more"),
    Mutation("K-KEY-5", rename(lambda name: name.removeprefix(PREFIX)), applies_to=plain, label="bare"),
    Mutation("K-KEY-6", tensors(base_copy), applies_to=has_pairs),
    Mutation("K-KEY-7", tensors(double), frozenset({"K-KEY-5"}), lora),
    Mutation("K-KEY-8", whole_layer, frozenset({"K-CFG-8"}), saves_nothing),
    Mutation("K-CFG-1", text("{", "["), frozenset({"K-KEY-1", "B-SHP-2", "B-SHP-4", "B-DUP-1"}), label="no JSON"),
    Mutation("K-CFG-1", text("{", '{"peft_type": "LORA", '), label="a key twice"),
    Mutation("K-CFG-1", configure(target_modules=[1, None]), applies_to=targeted, label="a list of numbers"),
    Mutation("K-CFG-1", configure(layers_to_transform="all"), label="layers in words"),
    Mutation("K-CFG-2", configure(peft_type="NOVEL"), frozenset({"K-KEY-1", "F-EMP-1"}), label="unknown"),
    Mutation(
        "K-CFG-2",
        alter=lambda subject: replace(subject, target="adreg"),
        applies_to=lambda clean: not lora(clean),
        label="for adreg",
    ),
    Mutation("K-CFG-3", configure(r=0), applies_to=READS_R, label="0"),
    Mutation("K-CFG-3", configure(r=1_000_000), applies_to=READS_R, label="a million"),
    Mutation("K-CFG-3", configure(r=True), applies_to=READS_R, label="true"),
    Mutation(
        "K-CFG-3",
        configure(r=5),
        frozenset({"X-VLM-1"}),
        lambda clean: plain(clean) or clean.recipe.family in ("LoHaConfig", "VeraConfig"),
        label="another",
    ),
    Mutation("K-CFG-3", configure(rank_pattern={"q_proj": -1}), applies_to=lora, label="in a pattern"),
    Mutation(
        "K-CFG-3",
        configure(num_virtual_tokens=10**9),
        applies_to=family("PromptTuningConfig", "PrefixTuningConfig"),
        label="tokens",
    ),
    Mutation("K-CFG-3", tensors(lower), applies_to=plain, label="the tensors'"),
    Mutation("K-CFG-3", tensors(lower_hada), applies_to=family("LoHaConfig"), label="the tensors' (LoHa)"),
    Mutation("K-CFG-4", configure(lora_alpha=-8), applies_to=family("LoraConfig", "AdaLoraConfig"), label="negative"),
    Mutation("K-CFG-4", configure(lora_alpha=0), applies_to=lora, label="0"),
    Mutation("K-CFG-4", configure(lora_alpha=math.nan), frozenset({"K-CFG-1"}), lora, label="NaN"),
    Mutation("K-CFG-4", configure(alpha_pattern={"q_proj": 1e30}), applies_to=lora, label="in a pattern"),
    Mutation("K-CFG-4", configure(alpha=-8), applies_to=family("LoHaConfig", "LoKrConfig"), label="negative"),
    Mutation(
        "K-CFG-4", configure(lora_alpha=4096), frozenset({"Q-NRM-1", "Q-NRM-2", "Q-OVF-1"}), plain, label="far above the rank"
    ),
    Mutation("K-CFG-5", configure(target_modules=f".*{HANG}"), label="in target_modules"),
    Mutation("K-CFG-5", configure(exclude_modules="(x+x+)+y"), label="in exclude_modules"),
    Mutation("K-CFG-5", configure(layers_pattern=["(.*)*"]), label="in layers_pattern"),
    Mutation(
        "K-CFG-5",
        configure(modules_to_save=["(a|a)*b"]),
        frozenset({"K-CFG-8", "K-KEY-1", "B-DUP-1"}),
        label="in modules_to_save",
    ),
    Mutation("K-CFG-5", configure(rank_pattern={HANG: 4}), applies_to=lora, label="in rank_pattern"),
    Mutation("K-CFG-5", configure(alpha_pattern={"[": 4}), applies_to=lora, label="no expression"),
    Mutation("K-CFG-6", configure(auto_mapping={"parent_library": "os.path", "base_model_class": "x"}), label="import"),
    Mutation("K-CFG-6", configure(auto_mapping={"parent_library": "transformers_modules.x"}), label="custom code"),
    Mutation("K-CFG-6", configure(megatron_core="evil.core"), frozenset({"K-CFG-8"}), label="megatron"),
    Mutation("K-CFG-6", configure(trust_remote_code=True), frozenset({"K-CFG-9"}), label="trust_remote_code"),
    Mutation(
        "K-CFG-6", configure(tokenizer_kwargs={"trust_remote_code": True}), frozenset({"K-CFG-8"}), label="in tokenizer_kwargs"
    ),
    Mutation("K-CFG-7", configure(init_lora_weights="pissa_niter_16"), applies_to=lora, label="PiSSA"),
    Mutation("K-CFG-7", configure(init_lora_weights="olora"), applies_to=lora, label="OLoRA"),
    Mutation("K-CFG-7", configure(init_lora_weights="loftq"), applies_to=lora, label="LoftQ"),
    Mutation("K-CFG-8", configure(use_qalora=True), applies_to=plain, label="QALoRA"),
    Mutation("K-CFG-8", configure(use_novel_thing=True), applies_to=plain, label="unknown"),
    Mutation("K-CFG-9", configure(peft_version="99.0.0"), label="newer"),
    Mutation("K-CFG-9", configure(use_novel_thing=True), applies_to=lambda clean: not plain(clean), label="unknown"),
    Mutation("K-CFG-10", configure(base_model_name_or_path="/mnt/cache/model"), UNKNOWN_BASE, alter=unrecorded, label="a path"),
    Mutation("K-CFG-10", configure(base_model_name_or_path=None), UNKNOWN_BASE, alter=unrecorded, label="none"),
    Mutation("K-CFG-10", configure(base_model_name_or_path="https://u:p@host/x"), label="credentials"),
    Mutation("K-CFG-11", configure(revision=None), UNKNOWN_BASE, alter=unrecorded, label="none"),
)
