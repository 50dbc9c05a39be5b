"""Qwen2, Qwen2.5 and Qwen3 as GGUF: every tensor as it is, rotary settings and hyperparameters.

Source: llama.cpp src/models/qwen2.cpp and qwen3.cpp, which know no sliding window.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from adreg.errors import UnsupportedError
from adreg.export.gguf.architecture import Architecture, real, whole
from adreg.export.gguf.decoder import (
    WAY_OUT,
    check_decoder,
    check_heads,
    check_whole_rotation,
    head_size,
    heads,
    write_head_size,
    write_rope,
    write_sizes,
)
from adreg.formats.bases.checkpoint import Checkpoint

if TYPE_CHECKING:
    from gguf import GGUFWriter


def _check(base: Checkpoint) -> None:
    check_decoder(base, ("default", "linear", "yarn"))
    check_heads(base)
    check_whole_rotation(base)
    if base.config.get("use_sliding_window"):
        raise UnsupportedError(f"GGUF for a {base.architecture} with sliding windows", WAY_OUT)


def _check_qwen2(base: Checkpoint) -> None:
    _check(base)
    if heads(base) * head_size(base) != whole(base, "hidden_size"):
        raise UnsupportedError(f"GGUF for a {base.architecture} whose heads do not add up to its width", WAY_OUT)


def _describe(writer: GGUFWriter, base: Checkpoint, file_type: int, _rows: int) -> None:
    write_sizes(writer, base)
    write_rope(writer, base)
    writer.add_layer_norm_rms_eps(real(base, "rms_norm_eps", 1e-6))
    if base.model_type != "qwen2" or base.config.get("head_dim") is not None:
        write_head_size(writer, base)
    writer.add_file_type(file_type)


QWEN3 = Architecture("qwen3", _check, _describe, biases=("attn_q", "attn_k", "attn_v"))
QWEN2 = replace(QWEN3, name="qwen2", check=_check_qwen2)
