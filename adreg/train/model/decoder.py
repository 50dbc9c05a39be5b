"""Whole decoder layers of the Llama family through native code, where it can compute them. Knows transformers' classes.

What it cannot do (another attention, a cache, dropout, other types) takes the layer's own way, operation by operation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from adreg.errors import AdregError
from adreg.train.model import attention
from adreg.train.model.fused import Branch, branch_of, factors_of, is_plain
from adreg.train.model.grid import Grid
from adreg.train.native.layer import Call, DecoderLayer, Shape, obstacle, rows_of
from adreg.train.native.library import library

log = logging.getLogger("adreg.train")


@cache
def available() -> bool:
    """Whether this machine multiplies bfloat16 and has a compiler."""
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    try:
        library()
    except AdregError as error:
        log.warning("training goes without native code, which would be faster: %s", error)
        return False
    return True


def native_layer(module: Any) -> NativeLayer | None:
    """The layer's forward pass, there and back in native code; None where nothing of it could be computed so."""
    own, mlp = module.self_attn, module.mlp
    linears = (own.q_proj, own.k_proj, own.v_proj, own.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    norms = (module.input_layernorm, module.post_attention_layernorm)
    known = (
        all(map(is_plain, linears))
        and not any(norm.weight.requires_grad for norm in norms)
        and type(mlp.act_fn).__name__ in ("SiLUActivation", "SiLU")
        and not hasattr(own, "q_norm")
        and getattr(own, "sliding_window", None) is None
        and getattr(own.config, "sliding_window", None) is None
    )
    return NativeLayer(module, linears) if known and available() else None


def native_layers(model: nn.Module) -> int:
    """How many layers of `model` are computed by native code, as it is set up now."""
    return sum(isinstance(module.forward, NativeLayer) and module.forward.is_ready() for module in model.modules())


class NativeLayer:
    """Stands in for the forward pass of `module`."""

    def __init__(self, module: Any, linears: Sequence[nn.Module]) -> None:
        self.module, self.linears, self.original = module, linears, module.forward

    def __call__(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        past_key_values: Any = None,
        row_grid: Grid | None = None,
        **kwargs: Any,
    ) -> Any:
        own_way = past_key_values is not None or attention_mask is not None or position_embeddings is None or row_grid is None
        if own_way or hidden_states.dtype != torch.bfloat16 or not self.is_ready():
            given = {} if row_grid is None else {"row_grid": row_grid}
            return self.original(
                hidden_states,
                attention_mask=attention_mask,
                position_embeddings=position_embeddings,
                past_key_values=past_key_values,
                **given,
                **kwargs,
            )
        assert row_grid is not None and position_embeddings is not None
        branches = self._branches()
        call = Call(branches, self._shape(), row_grid.once("rows", lambda: rows_of(row_grid.counts(), row_grid.prefix)))
        return DecoderLayer.apply(hidden_states, *position_embeddings, call, *factors_of(branches))

    def is_ready(self) -> bool:
        """Whether the layer could be computed as it stands: its types, its dropout, the model's attention."""
        own = self.module.self_attn
        wanted = own.config._attn_implementation == attention.NAME and not (own.training and own.attention_dropout)
        return wanted and obstacle(self._branches(), self._shape()) is None

    def _branches(self) -> list[Branch]:
        return [branch_of(linear) for linear in self.linears]

    def _shape(self) -> Shape:
        module, own = self.module, self.module.self_attn
        norm = module.input_layernorm
        return Shape(norm.weight, module.post_attention_layernorm.weight, norm.variance_epsilon, own.scaling, own.head_dim)
