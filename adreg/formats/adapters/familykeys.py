"""The tensor names of every adapter family that people have, in the spellings of their tools. Knows names, not tensors.

Sources: peft/utils/save_and_load.py and peft/tuners/*/layer.py (0.21), measured; kohya sd-scripts networks/lora.py and
LyCORIS; diffusers loaders/lora_conversion_utils.py; mlx_lm/tuner/lora.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from adreg.formats.adapters.keys import BASE_COPY, PARTS, PREFIX


class Kind(StrEnum):
    """What an adapter is mathematically. `UNKNOWN` is refused by the name that its configuration gives."""

    LORA = "LoRA"
    ADALORA = "AdaLoRA"
    LOHA = "LoHa"
    LOKR = "LoKr"
    IA3 = "IA3"
    OFT = "OFT"
    BOFT = "BOFT"
    VERA = "VeRA"
    PREFIX_TUNING = "prefix tuning"
    PROMPT_TUNING = "prompt tuning"
    P_TUNING = "P-tuning"
    TRAINABLE_TOKENS = "trainable tokens"
    LN_TUNING = "LayerNorm tuning"
    UNKNOWN = "unknown"

    @property
    def is_prompt(self) -> bool:
        """Whether it is virtual tokens before the prompt: nothing of it can be merged into weights."""
        return self in (Kind.PREFIX_TUNING, Kind.PROMPT_TUNING, Kind.P_TUNING)


class Style(StrEnum):
    """Whose spelling the tensor names have. `BARE` is PEFT's without its `base_model.model.`."""

    PEFT = "PEFT"
    BARE = "bare PEFT"
    KOHYA = "kohya"
    DIFFUSERS = "diffusers"
    MLX = "MLX"


@dataclass(frozen=True)
class FamilyKey:
    """One tensor name, read. `module` is empty for a tensor that all modules share (VeRA's projections, a prompt)."""

    raw: str
    style: Style
    kind: Kind
    module: str
    part: str


SIDE_PARTS = ("token_delta", "base_copy")
LORA_PARTS = PARTS | {BASE_COPY: "base_copy"}
OTHER_PARTS = {
    ".lora_A": (Kind.ADALORA, "A"),
    ".lora_B": (Kind.ADALORA, "B"),
    ".lora_E": (Kind.ADALORA, "E"),
    **{f".hada_{part}": (Kind.LOHA, part) for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{part}": (Kind.LOKR, part) for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    ".ia3_l": (Kind.IA3, "l"),
    ".oft_R.weight": (Kind.OFT, "R"),
    ".oft_r": (Kind.OFT, "R"),
    ".boft_R": (Kind.BOFT, "R"),
    ".boft_s": (Kind.BOFT, "s"),
    ".vera_lambda_b": (Kind.VERA, "lambda_b"),
    ".vera_lambda_d": (Kind.VERA, "lambda_d"),
    ".trainable_tokens_delta": (Kind.TRAINABLE_TOKENS, "token_delta"),
    ".ln_tuning_layers.weight": (Kind.LN_TUNING, "weight"),
    ".ln_tuning_layers.bias": (Kind.LN_TUNING, "bias"),
}
SUFFIXES = {suffix: (Kind.LORA, part) for suffix, part in LORA_PARTS.items()} | OTHER_PARTS
SHARED = {
    "base_model.vera_A": (Kind.VERA, "vera_A"),
    "base_model.vera_B": (Kind.VERA, "vera_B"),
    "prompt_embeddings": (Kind.PROMPT_TUNING, "prompt"),
}
KOHYA_PREFIX = re.compile(r"lora_(unet|te|te1|te2|te3|transformer|prior)_")
KOHYA_SUFFIXES = {
    ".lora_down.weight": (Kind.LORA, "A"),
    ".lora_up.weight": (Kind.LORA, "B"),
    ".lora_mid.weight": (Kind.LORA, "mid"),
    ".dora_scale": (Kind.LORA, "magnitude"),
    ".alpha": (Kind.LORA, "alpha"),
    **{suffix: found for suffix, found in OTHER_PARTS.items() if found[0] in (Kind.LOHA, Kind.LOKR)},
    ".oft_blocks": (Kind.OFT, "R"),
}
DIFFUSERS_PREFIX = re.compile(
    r"(unet|text_encoder|text_encoder_2|text_encoder_3|diffusion_model)\.|transformer\.\w*blocks\.|\w+\.processor\."
)
DIFFUSERS_SUFFIXES = {
    ".lora_A.weight": (Kind.LORA, "A"),
    ".lora_B.weight": (Kind.LORA, "B"),
    ".lora.down.weight": (Kind.LORA, "A"),
    ".lora.up.weight": (Kind.LORA, "B"),
    "_lora.down.weight": (Kind.LORA, "A"),
    "_lora.up.weight": (Kind.LORA, "B"),
    ".lora_magnitude_vector": (Kind.LORA, "magnitude"),
    ".alpha": (Kind.LORA, "alpha"),
}
MLX_SUFFIXES = {".lora_a": (Kind.LORA, "A"), ".lora_b": (Kind.LORA, "B")}


def read_key(raw: str) -> FamilyKey | None:
    """`raw` as a tensor name of some family, or None when it is no adapter parameter of any that adreg knows."""
    if raw in SHARED:
        return FamilyKey(raw, Style.PEFT, SHARED[raw][0], "", SHARED[raw][1])
    if raw.startswith(PREFIX):
        return _match(raw, raw.removeprefix(PREFIX), Style.PEFT, SUFFIXES)
    if KOHYA_PREFIX.match(raw):
        return _match(raw, raw, Style.KOHYA, KOHYA_SUFFIXES)
    if DIFFUSERS_PREFIX.match(raw):
        return _match(raw, raw, Style.DIFFUSERS, DIFFUSERS_SUFFIXES)
    return _match(raw, raw, Style.BARE, SUFFIXES) or _match(raw, raw, Style.MLX, MLX_SUFFIXES)


def _match(raw: str, name: str, style: Style, suffixes: dict[str, tuple[Kind, str]]) -> FamilyKey | None:
    for suffix, (kind, part) in suffixes.items():
        if name.endswith(suffix) and len(name) > len(suffix):
            return FamilyKey(raw, style, kind, name.removesuffix(suffix), part)
    return None


NAMED = re.compile(
    r"(.*\.)?(lora_(A|B|embedding_A|embedding_B)|lora_magnitude_vector)\.([^.]+)(\.weight)?|.*[^.]_(A|B)\.weight"
)


def has_adapter_name(raw: str) -> bool:
    """Whether `raw` still has the adapter's own name in it, or lost its "lora" to one of that name (peft#2699)."""
    found = NAMED.fullmatch(raw)
    return found is not None and read_key(raw) is None
