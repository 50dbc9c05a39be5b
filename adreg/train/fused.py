"""PEFT's plain LoRA layer as one autograd function. Knows PEFT's layers, not models.

PEFT casts the input to the adapter's float32 and adds, scales and casts in separate operations; on a CPU that is a
fifth of a training step. Here the float32 weights are cast once a call and everything else stays in the base's type.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

ADAPTER = "default"


def fuse(model: nn.Module) -> int:
    """Replace the forward pass of every plain LoRA layer without dropout in `model`; returns how many there are."""
    plain = [module for module in model.modules() if isinstance(module, Linear) and _is_plain(module)]
    for module in plain:
        module.forward = _Forward(module, module.forward)
    return len(plain)


def _is_plain(module: Linear) -> bool:
    """Whether the layer is W x + s B A x and nothing else."""
    return (
        list(module.lora_A) == [ADAPTER]
        and isinstance(module.lora_dropout[ADAPTER], nn.Identity)
        and not module.lora_bias[ADAPTER]
        and ADAPTER not in module.lora_variant
        and type(module.base_layer) in (nn.Linear, _conv1d())
    )


def _conv1d() -> type[nn.Module]:
    from transformers.pytorch_utils import Conv1D

    return Conv1D  # type: ignore[no-any-return]


class _Forward:
    """Calls the fused function, or PEFT's own `forward` while the adapter is off or merged."""

    def __init__(self, module: Linear, original: Any) -> None:
        self.module, self.original = module, original
        self.transposed = not isinstance(module.base_layer, nn.Linear)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        if module.disable_adapters or module.merged:
            return self.original(x, *args, **kwargs)
        base = module.base_layer
        weight = base.weight.t() if self.transposed else base.weight
        a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
        return LoraLinear.apply(x, weight, base.bias, a, b, module.scaling[ADAPTER])


class LoraLinear(torch.autograd.Function):  # type: ignore[misc]
    """y = x W' + bias + s (x A') B', for x (..., in), frozen W (out, in), A (r, in) and B (out, r) in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        flat, a, b = x.reshape(-1, x.shape[-1]), a.to(x.dtype), (b * scaling).to(x.dtype)
        shrunk = flat @ a.t()
        out = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
        ctx.save_for_backward(flat, weight, a, b, shrunk)
        ctx.scaling = scaling
        return out.addmm_(shrunk, b.t()).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, a, b, shrunk = ctx.saved_tensors
        out = gradients[0].reshape(-1, weight.shape[0])
        through = out @ b
        grad_a = (through.t() @ flat).float()
        grad_b = (out.t() @ shrunk).float() * ctx.scaling
        grad_x = (out @ weight).addmm_(through, a).view(*gradients[0].shape[:-1], -1) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_a, grad_b, None
