"""How much memory a pass forward and back takes beside the weights. Knows shapes, not tensors; an estimate, no promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LIKE_LLAMA = ("gemma", "gemma2", "gemma3", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3")
EXPLICIT_WIDTH = 256
"""Tokens in a row up to which attention keeps its weights, on a CPU."""
HEAD_SLICE = 12 * 2**20
"""Bytes of logits, shares and masks of a slice of the vocabulary."""


@dataclass(frozen=True)
class Shape:
    """A decoder: widths of its layers' parts in numbers a token."""

    layers: int
    hidden: int
    heads: int
    queries: int
    keys: int
    inner: int
    gated: bool
    capped: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From a checkpoint's config.json; what that leaves out is what transformers would take."""
        known: Mapping[str, Any] = config.get("text_config") or config
        hidden = int(known.get("hidden_size") or known.get("n_embd") or 0)
        heads = int(known.get("num_attention_heads") or known.get("n_head") or 1)
        size = int(known.get("head_dim") or hidden // heads)
        pairs = int(known.get("num_key_value_heads") or heads)
        inner = int(known.get("intermediate_size") or known.get("n_inner") or 4 * hidden)
        layers = int(known.get("num_hidden_layers") or known.get("n_layer") or 0)
        gated = known.get("model_type") in LIKE_LLAMA or config.get("model_type") in LIKE_LLAMA
        capped = known.get("attn_logit_softcapping") is not None
        return cls(layers, hidden, heads, heads * size, pairs * size, inner, gated, capped)

    def kept(self, width: int) -> int:
        """Numbers that a layer keeps a token for the way back, in rows of `width` tokens.

        The input of each norm and of each group of layers, the attention's three operands, its weights and its result, and of
        the MLP the two products of its input; where blocks are not fused, five things as wide as the MLP. Capped weights are
        kept twice.
        """
        times = 2 if self.capped else int(width <= EXPLICIT_WIDTH)
        attention = 2 * self.queries + 2 * self.keys + times * self.heads * width
        return 4 * self.hidden + attention + (2 if self.gated else 5) * self.inner


def activation_bytes(config: Mapping[str, Any], tokens: int, width: int, size: int, checkpointing: bool = False) -> int:
    """About how many bytes a micro batch of `tokens` in rows of `width` takes at its peak, in a type of `size` bytes.

    `config` is the checkpoint's config.json. With `checkpointing`, layers keep their input only, about twice over as memory is
    handed out, and one is computed again.
    """
    shape = Shape.of(config)
    layer = tokens * shape.kept(width)
    held = 2 * shape.layers * tokens * shape.hidden + layer if checkpointing else shape.layers * layer
    passing = tokens * (4 * shape.inner + 4 * shape.hidden)
    return size * (held + passing) + HEAD_SLICE
