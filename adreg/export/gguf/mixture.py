"""Which tensor gets which type in a quantised file: llama.cpp's mixtures, so that files are as those of llama-quantize.

Source: llama.cpp src/llama-quant.cpp (`llama_tensor_get_type_impl`, `tensor_type_fallback`). Knows no values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adreg.export.gguf.architecture import BLOCK_COUNT, Architecture, whole
from adreg.formats.bases.checkpoint import Checkpoint

DEFAULTS = {
    "q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1", "q2_k": "Q2_K", "q3_k_m": "Q3_K", "q4_k_s": "Q4_K",
    "q4_k_m": "Q4_K", "q5_k_s": "Q5_K", "q5_k_m": "Q5_K", "q6_k": "Q6_K",
}  # fmt: skip
# for rows that do not divide into the blocks of 256 of the types on the left
FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
SMALL, LARGE = 32, 256
# the parts of every layer that some mixtures treat better than the rest
VALUES, DOWN, OUTPUT = ("attn_v", "attn_qkv"), "ffn_down", "attn_output"


@dataclass(frozen=True)
class Traits:
    """What the mixtures ask of a model. `is_70b`: llama.cpp calls it a 70B, whose narrow values get more bits."""

    layers: int
    queries_per_key: int = 1
    is_70b: bool = False

    def is_sensitive(self, layer: int) -> bool:
        """Whether it is in the first or the last eighth of the layers, or every third of those between."""
        first = self.layers // 8
        return layer < first or layer >= 7 * self.layers // 8 or (layer - first) % 3 == 2


def mixture(shapes: Mapping[str, tuple[int, ...]], quant: str, traits: Traits) -> dict[str, str]:
    """The type of each of the weights in `shapes` (row-major) in a file of type `quant`."""
    return {name: fitting(shapes[name][-1], dtype) for name, dtype in _wanted(shapes, quant, traits)}


def fitting(columns: int, dtype: str) -> str:
    """`dtype`, or what takes its place for rows that do not divide into its blocks."""
    if dtype in FALLBACKS and columns % LARGE:
        dtype = FALLBACKS[dtype]
    return "F16" if columns % SMALL else dtype


def _wanted(shapes: Mapping[str, tuple[int, ...]], quant: str, traits: Traits) -> Iterator[tuple[str, str]]:
    default = DEFAULTS[quant]
    output = "output.weight" if "output.weight" in shapes else "token_embd.weight"
    for name, shape in shapes.items():
        if name == output:
            yield name, "Q8_0" if shape[-1] % (LARGE if default in FALLBACKS else SMALL) else "Q6_K"
        elif name.startswith("blk."):
            _, layer, part, *_ = name.split(".")
            yield name, _in_layer(int(layer), part, quant, traits) or default
        else:
            yield name, default


def _in_layer(layer: int, part: str, quant: str, traits: Traits) -> str | None:
    """The type of a part of a layer that is not the default one."""
    if part in VALUES:
        wanted = _of_values(layer, quant, traits)
        narrow = traits.is_70b and (wanted or DEFAULTS[quant]) in ("Q3_K", "Q4_K")
        return "Q5_K" if narrow else wanted
    if part == DOWN:
        return _of_down(layer, quant, traits)
    return {"q2_k": "Q3_K", "q3_k_m": "Q4_K"}.get(quant) if part == OUTPUT else None


def _of_values(layer: int, quant: str, traits: Traits) -> str | None:
    match quant:
        case "q2_k":
            return "Q4_K" if traits.queries_per_key >= 4 else "Q3_K"
        case "q3_k_m":
            return "Q5_K" if layer < 2 else "Q4_K"
        case "q4_k_s":
            return "Q5_K" if layer < 4 else None
        case "q4_k_m" | "q5_k_m":
            return "Q6_K" if traits.is_sensitive(layer) else None
    return None


def _of_down(layer: int, quant: str, traits: Traits) -> str | None:
    match quant:
        case "q2_k":
            return "Q3_K"
        case "q3_k_m":
            return "Q5_K" if layer < traits.layers // 16 else "Q4_K"
        case "q4_k_s":
            return "Q5_K" if layer < traits.layers // 8 else None
        case "q4_k_m" | "q5_k_m":
            return "Q6_K" if traits.is_sensitive(layer) else None
    return None


def traits_of(base: Checkpoint, architecture: Architecture) -> Traits:
    """The traits of `base`, which llama.cpp runs as `architecture`."""
    base = architecture.part(base)
    layers, heads = whole(base, *BLOCK_COUNT), whole(base, "num_attention_heads", "n_head")
    keys = base.config.get("num_key_value_heads") or heads
    grouped = architecture.name == "qwen2" or (architecture.name == "llama" and keys != heads)
    return Traits(layers, heads // keys, is_70b=layers == 80 and grouped)
