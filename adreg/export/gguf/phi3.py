"""Phi-3 and Phi-4 as GGUF architecture `phi3`: fused projections as they are, two sets of rotary factors for long texts.

Source: llama.cpp src/models/phi3.cpp. It reads the sliding window and does not use it; 0 marks a Phi-4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from adreg.errors import FormatError, UnsupportedError
from adreg.export.gguf.architecture import BLOCK_COUNT, Architecture, is_number, real, whole
from adreg.export.gguf.decoder import WAY_OUT, check_decoder, heads, rotated_part
from adreg.export.tensors import OutputTensor
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.modelconfig import rope

if TYPE_CHECKING:
    from gguf import GGUFWriter

LENGTHS = ("long", "short")


def _check(base: Checkpoint) -> None:
    check_decoder(base, ("default", "longrope", "su"))
    if base.config.get("head_dim") not in (None, whole(base, "hidden_size") // heads(base)):
        raise UnsupportedError(f"GGUF for a {base.architecture} whose heads do not add up to its width", WAY_OUT)


def rotated_size(base: Checkpoint) -> int:
    """How many elements of a head are rotated."""
    return int(rotated_part(base) * whole(base, "hidden_size")) // heads(base)


def original_context(base: Checkpoint) -> int:
    """The length of the texts that the model was first trained on."""
    found = rope(base.config).get("original_max_position_embeddings")
    return found or whole(base, "original_max_position_embeddings", "max_position_embeddings")


def attention_factor(base: Checkpoint) -> float:
    """How much longrope raises the attention. Source: transformers modeling_rope_utils, `_compute_longrope_parameters`."""
    found, original = rope(base.config), original_context(base)
    longer = found.get("factor") or whole(base, "max_position_embeddings") / original
    usual = math.sqrt(1 + math.log(longer) / math.log(original)) if longer > 1 else 1.0
    return float(found.get("attention_factor") or usual)


def _factors(base: Checkpoint) -> Iterator[OutputTensor]:
    found = rope(base.config)
    if found["rope_type"] == "default":
        return
    for length in LENGTHS:
        values = found.get(f"{length}_factor") or ()
        if 2 * len(values) != rotated_size(base) or not all(map(is_number, values)):
            why = f"has {len(values)} {length} rope factors for {rotated_size(base)} rotated elements"
            raise FormatError(base.folder / "config.json", why, "B-CFG-0")
        yield OutputTensor(f"rope_factors_{length}.weight", (len(values),), None, values=tuple(values))


def _describe(writer: GGUFWriter, base: Checkpoint, file_type: int, _rows: int) -> None:
    scaling = rope(base.config)
    if scaling["rope_type"] != "default":
        writer.add_rope_scaling_attn_factors(attention_factor(base))
    writer.add_context_length(whole(base, "max_position_embeddings"))
    writer.add_rope_scaling_orig_ctx_len(original_context(base))
    writer.add_embedding_length(whole(base, "hidden_size"))
    writer.add_feed_forward_length(whole(base, "intermediate_size"))
    writer.add_block_count(whole(base, *BLOCK_COUNT))
    writer.add_head_count(heads(base))
    writer.add_head_count_kv(whole(base, "num_key_value_heads", "num_attention_heads"))
    writer.add_layer_norm_rms_eps(real(base, "rms_norm_eps", 1e-5))
    writer.add_rope_dimension_count(rotated_size(base))
    writer.add_rope_freq_base(scaling["rope_theta"])
    writer.add_file_type(file_type)
    writer.add_sliding_window(base.config.get("sliding_window") or 0)


PHI3 = Architecture("phi3", _check, _describe, more=_factors)
