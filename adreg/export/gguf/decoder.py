"""What decoders of the Llama kind share: heads, rotary settings, and the hyperparameters that llama.cpp asks of all.

Source: llama.cpp's converter (conversion/base.py, TextModel) for the order of the keys and what they default to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adreg.errors import FormatError, UnsupportedError
from adreg.export.changes.weights import is_tied
from adreg.export.gguf.architecture import BLOCK_COUNT, is_number, whole
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.modelconfig import rope
from adreg.formats.canonical import OUTPUT_HEAD, canonical_name

if TYPE_CHECKING:
    from gguf import GGUFWriter

SIZES = ("hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers")
LENGTH = "original_max_position_embeddings"
ROPE_NUMBERS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", LENGTH),
    "yarn": ("factor", LENGTH),
}
YARN = {"rope_type", "rope_theta", "factor", LENGTH, "beta_fast", "beta_slow", "attention_factor"}
WAY_OUT = "use --to safetensors"


def heads(base: Checkpoint) -> int:
    """The number of query heads."""
    return whole(base, "num_attention_heads")


def head_size(base: Checkpoint) -> int:
    """Elements of a head: as config.json says, or as many as the rows of q_proj make of the heads."""
    if base.config.get("head_dim") is not None:
        return whole(base, "head_dim")
    return _rows(base, "layers.0.self_attn.q_proj.weight") // heads(base)


def key_value_heads(base: Checkpoint) -> int:
    """The number of key and value heads; without a word in config.json, as many as k_proj has rows for."""
    if base.config.get("num_key_value_heads") is not None:
        return whole(base, "num_key_value_heads")
    return _rows(base, "layers.0.self_attn.k_proj.weight") // head_size(base)


def check_decoder(base: Checkpoint, rope_types: tuple[str, ...], activation: str = "silu") -> None:
    """Refuse sizes that are no numbers, another activation than `activation`, other rotary settings than `rope_types`,
    and a head that is said to be there and is not."""
    config, scaling = base.config, rope(base.config)
    for key in SIZES:
        whole(base, key)
    if config.get("hidden_act", activation) != activation:
        raise UnsupportedError(f"GGUF for a {base.architecture} with the activation {config['hidden_act']!r}", WAY_OUT)
    if scaling["rope_type"] not in rope_types or not _is_usual(scaling):
        raise UnsupportedError(f"GGUF for a {base.architecture} with the rope parameters {scaling}", WAY_OUT)
    if config.get("tie_word_embeddings") is False and is_tied(base):
        raise FormatError(base.folder, f"has no {OUTPUT_HEAD}, and config.json says that it is not tied", "B-DIR-2")


def check_heads(base: Checkpoint) -> None:
    """Refuse projections whose rows are not those of the heads that config.json counts."""
    size = head_size(base)
    for name, count in (("q_proj", heads(base)), ("k_proj", key_value_heads(base))):
        rows = _rows(base, f"layers.0.self_attn.{name}.weight")
        if rows != count * size or size % 2:
            raise FormatError(base.folder, f"has {rows} rows in {name} for {count} heads of {size}", "B-SHP-2")


def rotated_part(base: Checkpoint) -> float:
    """How much of each head the rotary embeddings turn."""
    part = rope(base.config).get("partial_rotary_factor") or base.config.get("partial_rotary_factor") or 1.0
    if not is_number(part):
        raise FormatError(base.folder / "config.json", f"partial_rotary_factor is {part!r}, not a number", "B-CFG-0")
    return float(part)


def check_whole_rotation(base: Checkpoint) -> None:
    """Refuse rotary embeddings that leave a part of each head alone."""
    if (part := rotated_part(base)) != 1:
        raise UnsupportedError(f"GGUF for a {base.architecture} that rotates {part} of each head", WAY_OUT)


def write_sizes(writer: GGUFWriter, base: Checkpoint) -> None:
    """Blocks, context, widths and heads."""
    writer.add_block_count(whole(base, *BLOCK_COUNT))
    writer.add_context_length(whole(base, "max_position_embeddings"))
    writer.add_embedding_length(whole(base, "hidden_size"))
    writer.add_feed_forward_length(whole(base, "intermediate_size"))
    writer.add_head_count(heads(base))
    writer.add_head_count_kv(key_value_heads(base))


def write_rope(writer: GGUFWriter, base: Checkpoint) -> None:
    """The scaling of the rotary frequencies and their base."""
    from gguf import RopeScalingType

    scaling = rope(base.config)
    if scaling["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(scaling["rope_type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        for key, add in YARN_WRITERS.items():
            if scaling.get(key) is not None:
                getattr(writer, add)(scaling[key])
    writer.add_rope_freq_base(scaling["rope_theta"])


def write_head_size(writer: GGUFWriter, base: Checkpoint) -> None:
    """The length of keys and values."""
    writer.add_key_length(head_size(base))
    writer.add_value_length(head_size(base))


YARN_WRITERS = {
    "attention_factor": "add_rope_scaling_yarn_attn_factor",
    "beta_fast": "add_rope_scaling_yarn_beta_fast",
    "beta_slow": "add_rope_scaling_yarn_beta_slow",
}


def _is_usual(scaling: Mapping[str, Any]) -> bool:
    """Whether the numbers are there, and llama.cpp scales the attention of yarn so: it always takes 0.1 ln(factor) + 1."""
    if not all(is_number(scaling.get(key)) for key in ROPE_NUMBERS.get(scaling["rope_type"], ())):
        return False
    if scaling["rope_type"] != "yarn":
        return True
    usual = 0.1 * math.log(scaling["factor"]) + 1
    return set(scaling) <= YARN and math.isclose(scaling.get("attention_factor") or usual, usual, rel_tol=1e-5)


def _rows(base: Checkpoint, name: str) -> int:
    for own, view in base.items():
        if canonical_name(own) == name:
            return view.shape[0]
    raise FormatError(base.folder, f"has no tensor {name}", "B-SHP-1")
