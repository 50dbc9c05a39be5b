"""Gemma, Gemma 2 and the text part of Gemma 3 as GGUF: norms that already have their 1, layers by turns, soft caps.

Source: llama.cpp src/models/gemma.cpp, gemma2.cpp and gemma3.cpp, which know which layers look how far by their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adreg.errors import UnsupportedError
from adreg.export.gguf.architecture import BLOCK_COUNT, Architecture, whole
from adreg.export.gguf.decoder import (
    WAY_OUT,
    check_decoder,
    check_whole_rotation,
    head_size,
    heads,
    write_head_size,
    write_rope,
    write_sizes,
)
from adreg.export.tensors import Transform
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.modelconfig import rope

if TYPE_CHECKING:
    from gguf import GGUFWriter

ACTIVATION = "gelu_pytorch_tanh"
# the first Gemma's files say gelu, and mean the approximation
LEGACY = (("gemma", "gelu"),)
LOCAL, GLOBAL = "sliding_attention", "full_attention"
# what transformers takes for granted (configuration_gemma3.py), and published files leave out
GEMMA3_DEFAULTS = {
    "head_dim": 256,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
}
VISION = ("vision_tower.", "multi_modal_projector.")
# llama.cpp knows the largest models by their layers, and scales their attention by width / heads
LARGEST = {"gemma2": 46, "gemma3": 62}
# what llama.cpp takes where nothing is said
LLAMA_CPP_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
ONE = Transform(lambda values: values + np.float32(1))


def text_part(base: Checkpoint) -> Checkpoint:
    """`base` with the settings of its text model at the top, none left out, and one set of rotary parameters: the
    global layers'. Those of the local layers are under `LOCAL`."""
    config = base.config
    text: dict[str, Any] = GEMMA3_DEFAULTS | {key: value for key, value in config.items() if key != "text_config"}
    text |= config.get("text_config") or {}
    ropes = text.pop("rope_parameters", None) or {}
    theta, local = text.pop("rope_theta", None) or 1e6, text.pop("rope_local_base_freq", None) or 1e4
    text["rope_parameters"] = {"rope_theta": theta} | (ropes.get(GLOBAL, ropes) or text.pop("rope_scaling", None) or {})
    text[LOCAL] = {"rope_theta": local} | (ropes.get(LOCAL) or {})
    return replace(base, config=text)


def _check(base: Checkpoint, *rope_types: str) -> None:
    """What llama.cpp takes for granted of all three."""
    config = base.config
    activation = config.get("hidden_activation") or config.get("hidden_act") or ACTIVATION
    known = ACTIVATION if (base.model_type, activation) in LEGACY else activation
    check_decoder(replace(base, config=config | {"hidden_act": known}), ("default", *rope_types), ACTIVATION)
    check_whole_rotation(base)
    if config.get("use_bidirectional_attention"):
        raise UnsupportedError(f"GGUF for a {base.architecture} with attention to what follows", WAY_OUT)


def _check_turns(base: Checkpoint, period: int) -> None:
    """Refuse another scale of the attention, and local layers that are not all but each last of `period`."""
    architecture, layers = f"gemma{2 if period == 2 else 3}", whole(base, *BLOCK_COUNT)
    scale = whole(base, "hidden_size") // heads(base) if layers == LARGEST[architecture] else head_size(base)
    if base.config.get("query_pre_attn_scalar", scale) != scale:
        said = base.config["query_pre_attn_scalar"]
        raise UnsupportedError(f"GGUF for a {base.architecture} with query_pre_attn_scalar {said} and not {scale}", WAY_OUT)
    usual = [LOCAL if (i + 1) % period else GLOBAL for i in range(layers)]
    if (base.config.get("layer_types") or _layer_types(base, period)) != usual:
        raise UnsupportedError(f"GGUF for a {base.architecture} whose layers do not take turns by {period}", WAY_OUT)


def _layer_types(base: Checkpoint, period: int) -> Sequence[str]:
    pattern = base.config.get("sliding_window_pattern") or base.config.get("_sliding_window_pattern") or period
    return [LOCAL if (i + 1) % pattern else GLOBAL for i in range(whole(base, *BLOCK_COUNT))]


def _check_gemma2(base: Checkpoint) -> None:
    _check(base)
    _check_turns(base, 2)
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if not base.config.get(key):
            raise UnsupportedError(f"GGUF for a {base.architecture} without {key}", WAY_OUT)


def _check_gemma3(base: Checkpoint) -> None:
    _check(base, "linear")
    _check_turns(base, 6)
    if base.config.get("attn_logit_softcapping"):
        raise UnsupportedError(f"GGUF for a {base.architecture} with attn_logit_softcapping", WAY_OUT)
    if base.config[LOCAL].get("rope_type", "default") != "default":
        raise UnsupportedError(f"GGUF for a {base.architecture} with the local rope parameters {base.config[LOCAL]}", WAY_OUT)


def _describe(writer: GGUFWriter, base: Checkpoint, file_type: int, _rows: int) -> None:
    write_sizes(writer, base)
    writer.add_layer_norm_rms_eps(base.config.get("rms_norm_eps", 1e-6))
    write_head_size(writer, base)
    writer.add_file_type(file_type)


def _describe_gemma(writer: GGUFWriter, base: Checkpoint, file_type: int, rows: int) -> None:
    _describe(writer, base, file_type, rows)
    if rope(base.config) != LLAMA_CPP_ROPE:
        write_rope(writer, base)


def _describe_gemma2(writer: GGUFWriter, base: Checkpoint, file_type: int, rows: int) -> None:
    _describe_gemma(writer, base, file_type, rows)
    writer.add_attn_logit_softcapping(base.config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(base.config["final_logit_softcapping"])
    writer.add_sliding_window(whole(base, "sliding_window"))


def _describe_gemma3(writer: GGUFWriter, base: Checkpoint, file_type: int, rows: int) -> None:
    text = text_part(base)
    _describe(writer, text, file_type, rows)
    write_rope(writer, text)
    writer.add_rope_freq_base_swa(text.config[LOCAL]["rope_theta"])
    if cap := text.config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(cap)
    writer.add_sliding_window(whole(text, "sliding_window"))


def _transform(_base: Checkpoint, name: str) -> Transform | None:
    """Gemma multiplies by 1 + the weight of a norm, llama.cpp by the weight."""
    return ONE if name.endswith("norm.weight") else None


GEMMA = Architecture("gemma", _check, _describe_gemma, _transform)
GEMMA2 = Architecture("gemma2", _check_gemma2, _describe_gemma2, _transform)
GEMMA3 = Architecture("gemma3", _check_gemma3, _describe_gemma3, _transform, part=text_part, ignored=VISION)
