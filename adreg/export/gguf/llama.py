"""Llama, Mistral and Index as GGUF architecture `llama`: rotary row order, rope factors, hyperparameters.

Source: llama.cpp src/models/llama.cpp. Mistral's sliding window has no place there; within it both compute the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from adreg.export.gguf.architecture import Architecture, real
from adreg.export.gguf.decoder import (
    check_decoder,
    check_heads,
    check_whole_rotation,
    head_size,
    write_head_size,
    write_rope,
    write_sizes,
)
from adreg.export.tensors import OutputTensor, Transform
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.modelconfig import rope
from adreg.formats.dtypes import Float32
from adreg.formats.gguf.names import ROPE_FACTORS, rotated_by

if TYPE_CHECKING:
    from gguf import GGUFWriter

SMALLEST_NORM = np.float32(1e-12)


def rotary_pairs(size: int) -> Transform:
    """Rows of q or k, heads of `size`, from Hugging Face's two rotary halves to llama.cpp's pairs."""

    def interleave(rows: Float32) -> Float32:
        return rows.reshape(-1, 2, size // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

    return Transform(interleave, group=size, rows_only=True)


def rope_factors(base: Checkpoint) -> tuple[float, ...]:
    """Divisors of the rotary frequencies for rope type llama3, in float32; empty for the other types.

    Long wavelengths are stretched by `factor`, short ones are kept, and those between go smoothly from one to the
    other. Source: transformers modeling_rope_utils, `_compute_llama3_parameters`.
    """
    found = rope(base.config)
    if found["rope_type"] != "llama3":
        return ()
    size, factor = head_size(base), found["factor"]
    low, high, context = found["low_freq_factor"], found["high_freq_factor"], found["original_max_position_embeddings"]
    one = np.float32(1)
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    # every quotient as reciprocal times numerator, as torch computes it, for the same bits as the converter
    frequencies = one / np.power(np.float32(found["rope_theta"]), exponents)
    wavelengths = (one / frequencies) * np.float32(2 * math.pi)
    smooth = ((one / wavelengths) * np.float32(context) - np.float32(low)) / np.float32(high - low)
    between = one / ((one - smooth) / np.float32(factor) + smooth)
    long = np.where(wavelengths > context / low, np.float32(factor), between)
    return tuple(np.where(wavelengths < context / high, one, long).tolist())


def normalised(rows: Float32) -> Float32:
    """Each row over its L2 norm, as torch's `normalize` computes it."""
    quotients: Float32 = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), SMALLEST_NORM)
    return quotients


def _check(base: Checkpoint) -> None:
    check_decoder(base, ("default", "linear", "llama3", "yarn"))
    check_heads(base)
    check_whole_rotation(base)


def _transform(base: Checkpoint, name: str) -> Transform | None:
    return rotary_pairs(head_size(base)) if rotated_by("llama", name) else None


def _factors(base: Checkpoint) -> Iterator[OutputTensor]:
    if factors := rope_factors(base):
        yield OutputTensor(ROPE_FACTORS, (len(factors),), None, values=factors)


def _describe(writer: GGUFWriter, base: Checkpoint, file_type: int, rows: int) -> None:
    write_sizes(writer, base)
    write_rope(writer, base)
    writer.add_layer_norm_rms_eps(real(base, "rms_norm_eps", 1e-6))
    write_head_size(writer, base)
    writer.add_file_type(file_type)
    writer.add_vocab_size(rows)
    writer.add_rope_dimension_count(head_size(base))


def _index_transform(base: Checkpoint, name: str) -> Transform | None:
    """Index divides each row of its head by its norm when it runs (NormHead); llama.cpp is given the quotients."""
    if name == "output.weight" and base.config.get("norm_head"):
        return Transform(normalised)
    return _transform(base, name)


BIASED = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
LLAMA = Architecture("llama", _check, _describe, _transform, _factors, biases=BIASED)
INDEX = replace(LLAMA, transform=_index_transform)
