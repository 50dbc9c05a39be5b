"""Attention over flattened rows, each row seeing itself only. Knows tensors, not models.

transformers' own way (SDPA with a block-causal mask, built from restarting positions) computes T x T scores for
T tokens in all. This one gathers the rows to a right-padded grid inside attention only, where causality alone
hides the padding; everything outside attention stays free of padding. Rows that begin alike can share the keys and
values of that beginning, computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NAME = "adreg_rows"
EXPLICIT_WIDTH = 256


def register() -> str:
    """Make the function known to transformers; returns the name for `set_attn_implementation`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, rows_attention)
    return NAME


@dataclass(frozen=True)
class Grid:
    """How flattened rows lie: `prefix` tokens that belong to all, then each token at its slot of rows x width."""

    slots: Tensor
    rows: int
    width: int
    prefix: int


def rows_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_grid: Grid,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention within rows: query (1, heads, T, d), key and value (1, kv heads, T, d) to (1, T, heads, d)."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    prefix, rows = row_grid.prefix, row_grid.rows
    asked, keys, values = (_spread(tensor[0, :, prefix:], row_grid) for tensor in (query, key, value))
    first_query, first_key, first_value = (tensor[:, :, :prefix] for tensor in (query, key, value))
    seen = torch.cat([first_key.expand(rows, -1, -1, -1), keys], 2)
    carried = torch.cat([first_value.expand(rows, -1, -1, -1), values], 2)
    grid = _causal(asked, seen, carried, scale, dropout).transpose(1, 2).flatten(0, 1)
    own = grid.index_select(0, row_grid.slots)[None]
    if prefix == 0:
        return own, None
    return torch.cat([_causal(first_query, first_key, first_value, scale, dropout).transpose(1, 2), own], 1), None


def _spread(tensor: Tensor, grid: Grid) -> Tensor:
    """(heads, tokens, d) to (rows, heads, width, d), zeros where no token stands."""
    heads, _, size = tensor.shape
    empty = tensor.new_zeros(grid.rows * grid.width, heads, size)
    filled = empty.index_copy(0, grid.slots, tensor.transpose(0, 1))
    return filled.view(grid.rows, grid.width, heads, size).transpose(1, 2)


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float) -> Tensor:
    """Attention in which the last query sees every key, the one before it one less, and so on.

    On CPUs narrow grids take plain matrix products, whose backward pass is three times as fast as SDPA's kernel.
    """
    width, length = query.shape[2], key.shape[2]
    hidden = torch.ones(width, length, dtype=torch.bool, device=query.device).triu(1 + length - width)
    if query.device.type == "cpu" and length <= EXPLICIT_WIDTH:
        return _explicit(query, key, value, hidden, scale, dropout)
    mask = None if width == length else ~hidden
    return F.scaled_dot_product_attention(
        query, key, value, mask, dropout, is_causal=mask is None, scale=scale, enable_gqa=True
    )


def _explicit(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, scale: float, dropout: float) -> Tensor:
    """Softmax(QK')V with float32 softmax; the heads of a group share one product with their key."""
    rows, heads, width, size = query.shape
    groups, length = heads // key.shape[1], key.shape[2]
    asked = query.reshape(-1, groups * width, size)
    bias = torch.zeros_like(hidden, dtype=query.dtype).masked_fill_(hidden, float("-inf")).repeat(groups, 1)
    scores = torch.baddbmm(bias, asked, key.reshape(-1, length, size).transpose(1, 2), alpha=scale)
    weights = F.dropout(torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype), dropout)
    return torch.bmm(weights, value.reshape(-1, length, size)).reshape(rows, heads, width, size)
