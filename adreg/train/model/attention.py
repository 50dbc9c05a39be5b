"""Attention over flattened rows, each row seeing itself only. Knows tensors, not models.

transformers' own way (SDPA with a block-causal mask, built from restarting positions) computes T x T scores for
T tokens in all. This one gathers the rows to a right-padded grid inside attention only, where causality alone
hides the padding; everything outside attention stays free of padding. Rows that begin alike can share the keys and
values of that beginning, computed once. Windows and soft caps are those that transformers hands to such functions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from adreg.train.model.elementwise import Softmax
from adreg.train.model.grid import Grid, collect, spread

NAME = "adreg_rows"
EXPLICIT_WIDTH = 256


def register() -> str:
    """Make the function known to transformers; returns the name for `set_attn_implementation`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, rows_attention)
    return NAME


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
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention within rows: query (1, heads, T, d), key and value (1, kv heads, T, d) to (1, T, heads, d).

    With `sliding_window` a token sees itself and that many less one before it; `softcap` c makes scores c tanh(score / c).
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rule = _Rule(row_grid, scale, dropout, sliding_window, softcap)
    first_query, asked = spread(query, row_grid, False)
    first_key, seen = spread(key, row_grid, True)
    first_value, carried = spread(value, row_grid, True)
    own = rule(asked, seen, carried)
    first = rule(first_query, first_key, first_value) if row_grid.prefix else first_query
    return collect(first, own, row_grid), None


class _Rule:
    """How queries look at keys: the last query sees every key, the one before it one less, and so on.

    On CPUs narrow grids take plain matrix products, whose backward pass is three times as fast as SDPA's kernel.
    """

    def __init__(self, grid: Grid, scale: float, dropout: float, window: int | None, softcap: float | None) -> None:
        self.grid, self.scale, self.dropout, self.window, self.softcap = grid, scale, dropout, window, softcap

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(rows, heads, width, d) from queries of that shape, and keys and values (rows, kv heads, length, d)."""
        width, length = query.shape[2], key.shape[2]
        window = self.window if self.window is not None and self.window < length else None
        if self.softcap is not None or (query.device.type == "cpu" and length <= EXPLICIT_WIDTH):
            return self._explicit(query, key, value, window)
        whole = width == length and window is None
        mask = None if whole else ~self.grid.hidden(width, length, window, query.device)
        return F.scaled_dot_product_attention(
            query, key, value, mask, self.dropout, is_causal=whole, scale=self.scale, enable_gqa=True
        )

    def _explicit(self, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        """Softmax(QK')V; the heads of a group share one product with their key."""
        rows, heads, width, size = query.shape
        groups, length = heads // key.shape[1], key.shape[2]
        asked = query.reshape(-1, groups * width, size)
        keys, values = key.reshape(-1, length, size).transpose(1, 2), value.reshape(-1, length, size)
        bias = self.grid.bias(groups, width, length, window, query)
        if self.softcap is None:
            scores = torch.baddbmm(bias, asked, keys, alpha=self.scale)
        else:
            scores = bias + torch.tanh(torch.bmm(asked, keys) * (self.scale / self.softcap)) * self.softcap
        weights = F.dropout(Softmax.apply(scores), self.dropout)
        return torch.bmm(weights, values).reshape(rows, heads, width, size)
