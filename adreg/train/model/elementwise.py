"""Norm, rotation and gate of a transformer as autograd functions that keep little and touch memory seldom. Knows tensors.

torch takes RMS norms and rotary embeddings apart into five to ten operations, each with a copy kept for the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class RmsNorm(torch.autograd.Function):  # type: ignore[misc]
    """w x / sqrt(mean(x²) + eps) over the last dimension, for a frozen w; the root is taken in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide, back = x.float(), (gradients[0] * weight).float()
        along = (back * wide).sum(-1, keepdim=True).mul_(inverse.pow(3)).div_(-x.shape[-1])
        return (back * inverse).addcmul_(wide, along).to(x.dtype), None, None


class Rotate(torch.autograd.Function):  # type: ignore[misc]
    """Rotary position embedding, the halves of the last dimension paired: x (..., heads, d), cos and sin (..., 1, d)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        half = x.shape[-1] // 2
        out = x * cos
        out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        out[..., half:].addcmul_(x[..., :half], sin[..., half:])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        (out,) = gradients
        half = out.shape[-1] // 2
        back = out * cos
        back[..., :half].addcmul_(out[..., half:], sin[..., half:])
        back[..., half:].addcmul_(out[..., :half], sin[..., :half], value=-1)
        return back, None, None


class Softmax(torch.autograd.Function):  # type: ignore[misc]
    """Softmax over the last dimension, taken in float32 and kept in the type of x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.softmax(x, -1, dtype=torch.float32).to(x.dtype)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return torch._softmax_backward_data(gradients[0], out, -1, out.dtype)


class Activation(NamedTuple):
    """An activation, and its gradient from that of its result and its input."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


def _tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _tanh_gelu_back(out: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(out, x, approximate="tanh")


ACTIVATIONS = {
    "silu": Activation(F.silu, torch.ops.aten.silu_backward),
    "gelu_pytorch_tanh": Activation(_tanh_gelu, _tanh_gelu_back),
}
