"""Which family an adapter is of, what it uses beyond plain LoRA, and its tensors by module. Recognises, judges nothing.

Works from the raw configuration and the tensor names, and so also where either breaks its rules. `open_adapter`
stays the way in for what adreg merges and serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from adreg.formats.adapters.familykeys import SIDE_PARTS, FamilyKey, Kind, Style, read_key
from adreg.formats.adapters.keys import PREFIX
from adreg.formats.safetensors import TensorView
from adreg.formats.strictjson import JsonObject

Parts = dict[str, TensorView]
DECLARED = {
    "LORA": Kind.LORA, "ADALORA": Kind.ADALORA, "LOHA": Kind.LOHA, "LOKR": Kind.LOKR, "IA3": Kind.IA3, "OFT": Kind.OFT,
    "BOFT": Kind.BOFT, "VERA": Kind.VERA, "PREFIX_TUNING": Kind.PREFIX_TUNING, "PROMPT_TUNING": Kind.PROMPT_TUNING,
    "P_TUNING": Kind.P_TUNING, "TRAINABLE_TOKENS": Kind.TRAINABLE_TOKENS, "LN_TUNING": Kind.LN_TUNING,
}  # fmt: skip
WHOLE: dict[Kind, tuple[frozenset[str], ...]] = {
    Kind.LORA: (frozenset({"A", "B"}), frozenset({"embedding_A", "embedding_B"})),
    Kind.ADALORA: (frozenset({"A", "B", "E"}),),
    Kind.LOHA: (frozenset({"w1_a", "w1_b", "w2_a", "w2_b"}),),
    Kind.LOKR: tuple(frozenset({*one, *two}) for one in (("w1",), ("w1_a", "w1_b")) for two in (("w2",), ("w2_a", "w2_b"))),
    Kind.IA3: (frozenset({"l"}),),
    Kind.OFT: (frozenset({"R"}),),
    Kind.BOFT: (frozenset({"R", "s"}),),
    Kind.VERA: (frozenset({"lambda_b", "lambda_d"}),),
    Kind.LN_TUNING: (frozenset({"weight"}),),
}
MODIFIED_BASE = ("pissa", "olora", "corda", "loftq")
TRAINED_BIASES = {"all": (".bias",), "lora_only": (".base_layer.bias",)}
SHORTEST_ENDING = 4
FROZEN = ("base_copy", "vera_A", "vera_B")
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in")
OUTPUT_HEADS = ("lm_head", "embed_out", "output")


class Feature(StrEnum):
    """What an engine may or may not take, beyond A and B of one rank on linear layers."""

    RSLORA = "rsLoRA"
    RANK_PATTERN = "rank pattern"
    ALPHA_PATTERN = "alpha pattern"
    LAYERS_TO_TRANSFORM = "layers_to_transform"
    DORA = "DoRA"
    LORA_BIAS = "LoRA bias"
    BIAS = "trained bias"
    MODULES_TO_SAVE = "modules_to_save"
    TRAINABLE_TOKENS = "trainable tokens"
    TARGET_PARAMETERS = "target_parameters"
    LAYER_REPLICATION = "layer replication"
    ALORA = "aLoRA"
    QALORA = "QALoRA"
    BDLORA = "BD-LoRA"
    MODIFIED_BASE = "initialisation that changes the base"
    EMBEDDING = "adapted embedding"
    OUTPUT_HEAD = "adapted output head"


FIELDS = {
    "use_rslora": Feature.RSLORA, "rank_pattern": Feature.RANK_PATTERN, "alpha_pattern": Feature.ALPHA_PATTERN,
    "layers_to_transform": Feature.LAYERS_TO_TRANSFORM, "use_dora": Feature.DORA, "lora_bias": Feature.LORA_BIAS,
    "modules_to_save": Feature.MODULES_TO_SAVE, "trainable_token_indices": Feature.TRAINABLE_TOKENS,
    "target_parameters": Feature.TARGET_PARAMETERS, "layer_replication": Feature.LAYER_REPLICATION,
    "alora_invocation_tokens": Feature.ALORA, "use_qalora": Feature.QALORA, "use_bdlora": Feature.BDLORA,
}  # fmt: skip
PART_FEATURES = {
    "magnitude": Feature.DORA,
    "lora_bias": Feature.LORA_BIAS,
    "token_delta": Feature.TRAINABLE_TOKENS,
    "embedding_A": Feature.EMBEDDING,
}


@dataclass(frozen=True)
class Family:
    """An adapter of any family. `modules` are its tensors by module and part, `saved` whole tensors that its
    configuration declares (modules_to_save), `shared` what belongs to no module, `foreign` what belongs nowhere."""

    declared: str | None
    kind: Kind
    config: JsonObject
    keys: tuple[FamilyKey, ...]
    modules: dict[str, Parts]
    sides: dict[str, Parts]
    saved: Parts
    shared: Parts
    foreign: tuple[str, ...]

    @property
    def styles(self) -> tuple[Style, ...]:
        """Every spelling that its tensor names have; more than one is a mixture."""
        return tuple(sorted({key.style for key in self.keys}))

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Every family that its tensor names speak of."""
        return tuple(sorted({key.kind for key in self.keys}))

    @property
    def trained(self) -> tuple[TensorView, ...]:
        """Every tensor that its training changed: neither copies of the base's own nor VeRA's random projections."""
        groups = (*self.modules.values(), *self.sides.values(), self.shared)
        named = [view for parts in groups for part, view in parts.items() if part not in FROZEN]
        return (*named, *self.saved.values())

    @cached_property
    def incomplete(self) -> tuple[str, ...]:
        """Modules that lack a part, and LoRA modules whose two halves do not multiply."""
        return tuple(name for name, parts in self.modules.items() if not self._whole(parts))

    @cached_property
    def features(self) -> frozenset[Feature]:
        """What it uses, from its configuration and from its tensors."""
        found = {feature for field, feature in FIELDS.items() if self.config.get(field)}
        found |= {PART_FEATURES[key.part] for key in self.keys if key.part in PART_FEATURES}
        if self.config.get("bias") not in (None, "none"):
            found.add(Feature.BIAS)
        if str(self.config.get("init_lora_weights")).lower().startswith(MODIFIED_BASE):
            found.add(Feature.MODIFIED_BASE)
        ends = {name.rpartition(".")[2] for name in self.modules}
        found |= {Feature.EMBEDDING} if ends & set(EMBEDDINGS) else set()
        return frozenset(found | ({Feature.OUTPUT_HEAD} if ends & set(OUTPUT_HEADS) else set()))

    @property
    def declared_ranks(self) -> tuple[int, ...]:
        """Every rank that the configuration names: its own, and those of rank_pattern."""
        pattern = self.config.get("rank_pattern")
        named = [self.config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
        return tuple(rank for rank in named if type(rank) is int and rank > 0)

    def _whole(self, parts: Parts) -> bool:
        if self.kind in WHOLE and not any(needed <= set(parts) for needed in WHOLE[self.kind]):
            return False
        a, b = parts.get("embedding_A", parts.get("A")), parts.get("embedding_B", parts.get("B"))
        if self.kind is not Kind.LORA or a is None or b is None or Style.MLX in self.styles:
            return True
        return len(a.shape) == len(b.shape) and len(a.shape) in (2, 4) and a.shape[0] == b.shape[1]


def recognise(config: JsonObject, tensors: Mapping[str, TensorView]) -> Family:
    """The family of an adapter: what its configuration declares, or else what most of its tensor names say."""
    declared = config.get("peft_type")
    read = [key for raw in tensors if (key := read_key(raw))]
    kind = _kind(declared, read)
    known = tuple(key for key in read if _belongs(key, kind))
    unknown = set(tensors) - {key.raw for key in known}
    modules: dict[str, Parts] = {}
    for key in known:
        if key.module:
            modules.setdefault(key.module, {})[key.part] = tensors[key.raw]
    sides = {name: parts for name, parts in modules.items() if set(parts) <= set(SIDE_PARTS)}
    saved = {raw: view for raw, view in tensors.items() if raw in unknown and _is_saved(config, raw)}
    return Family(
        declared=declared if isinstance(declared, str) else None,
        kind=kind,
        config=config,
        keys=known,
        modules={name: modules[name] for name in sorted(set(modules) - set(sides))},
        sides=sides,
        saved=saved,
        shared={key.part: tensors[key.raw] for key in known if not key.module},
        foreign=tuple(raw for raw in tensors if raw in unknown and raw not in saved),
    )


def _kind(declared: object, keys: Sequence[FamilyKey]) -> Kind:
    if isinstance(declared, str):
        return DECLARED.get(declared, Kind.UNKNOWN)
    kinds = [key.kind for key in keys]
    return max(sorted(set(kinds)), key=kinds.count, default=Kind.UNKNOWN)


def _belongs(key: FamilyKey, kind: Kind) -> bool:
    """Whether an adapter of `kind` has such a tensor; only kohya's files mix kinds."""
    return key.kind is kind or (key.kind.is_prompt and kind.is_prompt) or key.style is Style.KOHYA


def _is_saved(config: JsonObject, raw: str) -> bool:
    """Whether `raw` is a bias that the configuration says is trained, or a parameter of a module that modules_to_save
    names: by its whole name anywhere, or by the end of its own name. Source: peft utils/other.py, _set_trainable."""
    if not raw.startswith(PREFIX):
        return False
    if raw.endswith(TRAINED_BIASES.get(str(config.get("bias")), ())):
        return True
    names = config.get("modules_to_save")
    path = f".{raw.removeprefix(PREFIX)}"
    module, listed = path.rpartition(".")[0], names if isinstance(names, list) else []
    wanted = [name for name in listed if isinstance(name, str) and name]
    return any(f".{name}." in path or (len(name) >= SHORTEST_ENDING and module.endswith(name)) for name in wanted)
