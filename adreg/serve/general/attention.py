"""Causal attention over a flat batch of sequences, each with keys and values of its own: no padding, no common mask.

It is registered with transformers' attention interface; models hand over the running step and their own settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "adreg_ragged"


@dataclass(frozen=True)
class Rules:
    """How a layer attends: scores are scaled, then capped by `softcap`·tanh; `window` is how many tokens a query sees."""

    scaling: float
    softcap: float | None = None
    window: int | None = None


class Attends(Protocol):
    """What goes through the model's layers as the argument `ragged`."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        """Queries (heads, rows, width) and new keys and values (KV heads, rows, width) to outputs (rows, heads, width)."""
        ...


def register() -> None:
    """Make the implementation `NAME` known to transformers, without a mask, as its masks would be those of one text."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _ragged)


def _ragged(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    ragged: Attends,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    rules = Rules(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, sliding_window)
    layer: int = module.layer_idx
    return ragged.attend(layer, query[0], key[0], value[0], rules)[None], None


def attend_one(query: Tensor, keys: Tensor, values: Tensor, rules: Rules) -> Tensor:
    """One query (heads, 1, width) over keys and values (KV heads, length, width) that it may all see: (1, heads, width).

    Two batched products: for a single row SDPA takes several times as long on a CPU, where bfloat16 also takes twice as
    long as a copy in float32.
    """
    heads, _, width = query.shape
    if keys.device.type == "cpu":
        keys, values = keys.float(), values.float()
    grouped = (query.to(keys.dtype) * rules.scaling).view(keys.shape[0], -1, width)
    scores = _cap(torch.bmm(grouped, keys.transpose(1, 2)), rules.softcap)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(values.dtype)
    return torch.bmm(weights, values).to(query.dtype).view(1, heads, -1)


def attend_many(query: Tensor, keys: Tensor, values: Tensor, rules: Rules, seen: Tensor | None) -> Tensor:
    """Queries (heads, rows, width) over keys and values (KV heads, length, width): (rows, heads, width).

    `seen` (rows, length) says who sees what; None: as many keys as queries, each sees itself and those before.
    """
    if rules.softcap is not None:
        return _attend_capped(query, keys, values, rules, seen)
    out = F.scaled_dot_product_attention(
        query[None], keys[None], values[None], seen, is_causal=seen is None, scale=rules.scaling, enable_gqa=True
    )
    return out[0].transpose(0, 1)


def _attend_capped(query: Tensor, keys: Tensor, values: Tensor, rules: Rules, seen: Tensor | None) -> Tensor:
    """SDPA knows no cap on scores."""
    heads, rows, width = query.shape
    length = keys.shape[1]
    if seen is None:
        seen = causal(rows, length, None, query.device)
    grouped = query.reshape(keys.shape[0], -1, width)
    scores = _cap(torch.bmm(grouped, keys.transpose(1, 2)) * rules.scaling, rules.softcap)
    scores = scores.view(-1, rows, length).masked_fill(~seen, float("-inf"))
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(values.dtype)
    out = torch.bmm(weights.view(keys.shape[0], -1, length), values)
    return out.view(heads, rows, -1).transpose(0, 1)


def _cap(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def causal(rows: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """Which of `length` keys the last `rows` of as many tokens see: (rows, length), bool."""
    seen = torch.ones(rows, length, dtype=torch.bool, device=device).tril(length - rows)
    return seen if window is None else seen.triu(length - rows - window + 1)
