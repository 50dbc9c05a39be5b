"""GPT-2 as GGUF: Conv1D weights turned to (out, in), learned positions, hyperparameters.

Source: llama.cpp src/models/gpt2.cpp, whose attention is scaled by the size of a head and by nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adreg.errors import FormatError, UnsupportedError
from adreg.export.changes.weights import is_tied
from adreg.export.gguf.architecture import BLOCK_COUNT, Architecture, real, whole
from adreg.export.tensors import Transform
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.gguf.names import NAMES

if TYPE_CHECKING:
    from gguf import GGUFWriter

TRANSPOSED = Transform(lambda weight: np.ascontiguousarray(weight.T), group=0, transposes=True)
USUAL = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def _check(base: Checkpoint) -> None:
    for key, usual in USUAL.items():
        if base.config.get(key, usual) != usual:
            raise UnsupportedError(f"GGUF for a GPT-2 with {key} = {base.config[key]!r}", "use --to safetensors")
    if base.config.get("tie_word_embeddings") is False and is_tied(base):
        raise FormatError(base.folder, "has no lm_head.weight, and config.json says that it is not tied", "B-DIR-2")


def _transform(base: Checkpoint, name: str) -> Transform | None:
    module = NAMES["gpt2"].in_checkpoint(name) or ""
    return TRANSPOSED if name.endswith(".weight") and base.is_conv1d(module.removesuffix(".weight")) else None


def _describe(writer: GGUFWriter, base: Checkpoint, file_type: int, _rows: int) -> None:
    width = whole(base, "n_embd", "hidden_size")
    writer.add_block_count(whole(base, *BLOCK_COUNT))
    writer.add_context_length(whole(base, "n_positions", "n_ctx"))
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(base.config.get("n_inner") or 4 * width)
    writer.add_head_count(whole(base, "n_head", "num_attention_heads"))
    writer.add_layer_norm_eps(real(base, "layer_norm_epsilon", 1e-5))
    writer.add_file_type(file_type)


GPT2 = Architecture("gpt2", _check, _describe, _transform, biases=tuple(NAMES["gpt2"].block), always_biased=True)
