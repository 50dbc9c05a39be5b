"""A gated MLP with LoRA as one autograd function: down(act(gate(x)) * up(x)). Knows tensors, not models.

Kept for the way back are the two products of x, and nothing else as wide: what was multiplied is computed again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adreg.train.model.elementwise import Activation
from adreg.train.model.lowrank import Frozen, Layers


class GatedMlp(torch.autograd.Function):  # type: ignore[misc]
    """x (..., in) to (..., in), for the layers gate, up and down; `factors` are A and B of each in turn, or None."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, activation: Activation, frozen: tuple[Frozen, Frozen, Frozen], *factors: Tensor | None
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        outer = Layers.start(flat, frozen[:2], factors[:4])
        gate, up = outer.outputs(flat)
        hidden = activation.forward(gate).mul_(up)
        inner = Layers.start(hidden, frozen[2:], factors[4:])
        ctx.activation, ctx.frozen, ctx.adapted = activation, frozen, (outer.adapted, inner.adapted)
        ctx.outer = len(outer.tensors())
        ctx.save_for_backward(flat, gate, up, *outer.tensors(), *inner.tensors())
        return next(inner.outputs(hidden)).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        flat, gate, up, *kept = ctx.saved_tensors
        outer = Layers.again(ctx.frozen[:2], ctx.adapted[0], kept[: ctx.outer])
        inner = Layers.again(ctx.frozen[2:], ctx.adapted[1], kept[ctx.outer :])
        active = ctx.activation.forward(gate)
        back, lower = inner.back(active * up if inner.adapted else None, [gradients[0].reshape_as(flat)], True)
        assert back is not None
        up_back = active.mul_(back)
        gate_back = ctx.activation.backward(back.mul_(up), gate)
        total, upper = outer.back(flat, [gate_back, up_back], ctx.needs_input_grad[0])
        return (None if total is None else total.view_as(gradients[0]), None, None, *upper, *lower)
