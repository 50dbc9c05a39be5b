"""LlamaForCausalLM as GGUF architecture `llama`: tensor names, rotary row order, rope factors, hyperparameters.

Source: llama.cpp src/models/llama.cpp and the key names in gguf's constants. What it cannot express is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from adreg.errors import FormatError, UnsupportedError
from adreg.export.fold.folded import Folded
from adreg.export.gguf.architecture import Architecture
from adreg.export.targets import is_tied
from adreg.export.tensors import OutputTensor, Transform
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.modelconfig import head_dim, rope
from adreg.formats.canonical import OUTPUT_HEAD, canonical_name, is_buffer
from adreg.formats.dtypes import Float32
from adreg.formats.gguf.names import BLOCK_NAMES, GLOBAL_NAMES

if TYPE_CHECKING:
    from gguf import GGUFWriter

BLOCKS = {theirs: ours for ours, theirs in BLOCK_NAMES.items()}
GLOBALS = {canonical_name(theirs): ours for ours, theirs in GLOBAL_NAMES.items()}
ROTATED = ("self_attn.q_proj", "self_attn.k_proj")
ROPE_TYPES = ("default", "linear", "llama3")


def plan_tensors(base: Checkpoint, folds: Mapping[str, Folded]) -> Iterator[OutputTensor]:
    """The output tensors in the order of llama.cpp's converter: rope factors, then by name within each shard.

    Raises `UnsupportedError` for a tensor or setting without a place in the format, `FormatError` for a missing one.
    """
    _check_config(base)
    names = {name: gguf_name(name) for shard in base.shards for name in sorted(shard) if _is_written(base, name)}
    _check_complete(base, set(names.values()))
    factors = rope_factors(base)
    if factors:
        yield OutputTensor("rope_freqs.weight", (len(factors),), None, values=factors)
    pairs = rotary_pairs(_head_dim(base))
    for name, output in names.items():
        rotated = name.rpartition(".")[0].endswith(ROTATED)
        yield OutputTensor(output, folds[name].shape, folds[name], pairs if rotated else None)


def rotary_pairs(size: int) -> Transform:
    """Rows of q or k, heads of `size`, from Hugging Face's two rotary halves to llama.cpp's pairs."""

    def interleave(rows: Float32) -> Float32:
        return rows.reshape(-1, 2, size // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

    return Transform(interleave, group=size, rows_only=True)


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` as `blk.3.ffn_up.weight`."""
    stem, _, kind = canonical_name(name).rpartition(".")
    if stem in GLOBALS:
        return f"{GLOBALS[stem]}.{kind}"
    block, _, part = stem.removeprefix("layers.").partition(".")
    if not block.isdigit() or part not in BLOCKS or kind not in ("weight", "bias"):
        raise UnsupportedError(f"tensor {name!r} in a GGUF of architecture llama", "use --to safetensors")
    return f"blk.{block}.{BLOCKS[part]}.{kind}"


def rope_factors(base: Checkpoint) -> tuple[float, ...]:
    """Divisors of the rotary frequencies for rope type llama3, in float32; empty for the other types.

    Long wavelengths are stretched by `factor`, short ones are kept, and those between go smoothly from one to the
    other. Source: transformers modeling_rope_utils, `_compute_llama3_parameters`.
    """
    found = rope(base.config)
    if found["rope_type"] != "llama3":
        return ()
    size, factor = _head_dim(base), found["factor"]
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


def write_hyperparameters(writer: GGUFWriter, base: Checkpoint, file_type: int) -> None:
    """The `llama.*` keys, in the order and with the defaults of llama.cpp's converter."""
    config, scaling = base.config, rope(base.config)
    heads = config["num_attention_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config.get("max_position_embeddings", 2048))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    if scaling["rope_type"] == "linear":
        _write_linear(writer, scaling)
    writer.add_rope_freq_base(scaling["rope_theta"])
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
    writer.add_key_length(_head_dim(base))
    writer.add_value_length(_head_dim(base))
    writer.add_file_type(file_type)
    writer.add_vocab_size(vocabulary_rows(base))
    writer.add_rope_dimension_count(_head_dim(base))


def vocabulary_rows(base: Checkpoint) -> int:
    """Rows of the embedding table: the size of the vocabulary, whatever config.json says."""
    return next(view.shape[0] for name, view in base.items() if canonical_name(name) == "embed_tokens.weight")


def _write_linear(writer: GGUFWriter, scaling: Mapping[str, Any]) -> None:
    from gguf import RopeScalingType

    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(scaling["factor"])


def _head_dim(base: Checkpoint) -> int:
    return head_dim(base.config) or 0


def _is_written(base: Checkpoint, name: str) -> bool:
    return not is_buffer(name) and not (canonical_name(name) == OUTPUT_HEAD and is_tied(base))


def _check_config(base: Checkpoint) -> None:
    config, scaling = base.config, rope(base.config)
    for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"):
        if type(config.get(key)) is not int:
            raise FormatError(base.folder / "config.json", f"{key} is {config.get(key)!r}, not a whole number", "B-CFG-0")
    if config.get("hidden_act", "silu") != "silu":
        raise UnsupportedError(f"GGUF for a Llama with the activation {config['hidden_act']!r}", "use --to safetensors")
    if scaling["rope_type"] not in ROPE_TYPES or scaling.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise UnsupportedError(f"GGUF for a Llama with the rope parameters {scaling}", "use --to safetensors")
    if config.get("tie_word_embeddings") is False and is_tied(base):
        raise FormatError(base.folder, f"has no {OUTPUT_HEAD}, and config.json says that it is not tied", "B-DIR-2")


def _check_complete(base: Checkpoint, found: set[str]) -> None:
    blocks: Iterable[int] = range(base.config["num_hidden_layers"])
    needed = {"token_embd.weight", "output_norm.weight"} | {f"blk.{i}.{part}.weight" for i in blocks for part in BLOCK_NAMES}
    missing = sorted(needed - found)
    if missing:
        raise FormatError(base.folder, f"lacks {len(missing)} tensors of a Llama, such as the one for {missing[0]}", "B-SHP-1")
    beyond = sorted(name for name in found - needed if name.startswith("blk.") and name.endswith(".weight"))
    if beyond:
        raise FormatError(base.folder, f"has more layers than config.json says, such as the one of {beyond[0]}", "B-SHP-1")


LLAMA = Architecture("llama", plan_tensors, write_hyperparameters)
