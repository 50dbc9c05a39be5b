"""A frozen output layer that tells the losses of wanted tokens instead of logits. Knows tensors, not architectures.

Softmax over the vocabulary is taken slice by slice, as in attention, with the output layer's rows for keys and values: what
comes out beside the loss of each token is its gradient by the hidden state. No more than one slice of logits is ever there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

SLICE_ELEMENTS = {"cpu": 2**19, "cuda": 2**24}
"""Logits in a slice: on a CPU what its cache holds, on a GPU enough to keep it busy."""
LEAST_SLICE = 1024


class TokenLosses(torch.autograd.Function):  # type: ignore[misc]
    """-log softmax(h W' + bias)[target] in float32 for h (N, in), frozen W (vocabulary, in), targets (N,) to (N,)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        count, size = hidden.shape
        top = hidden.new_full((count, 1), float("-inf"), dtype=torch.float32)
        mass, told = torch.zeros_like(top), torch.zeros_like(top)
        mean = torch.zeros(count if wanted else 0, size, dtype=torch.float32, device=hidden.device)
        step = max(SLICE_ELEMENTS.get(hidden.device.type, 2**24) // max(count, 1), LEAST_SLICE)
        for start in range(0, len(weight), step):
            part = weight[start : start + step]
            logits = (hidden @ part.t() if bias is None else torch.addmm(bias[start : start + step], hidden, part.t())).float()
            place = (targets - start)[:, None]
            told = torch.where((place >= 0) & (place < len(part)), logits.gather(1, place.clamp(0, len(part) - 1)), told)
            higher = torch.maximum(top, logits.amax(1, keepdim=True))
            shares, faded = logits.sub_(higher).exp_(), (top - higher).exp_()
            mass.mul_(faded).add_(shares.sum(1, keepdim=True))
            if wanted:
                mean.mul_(faded).add_(shares.to(hidden.dtype) @ part)
            top = higher
        ctx.save_for_backward(mean.div_(mass).sub_(weight[targets]).to(hidden.dtype) if wanted else mean)
        return (top + mass.log() - told)[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * gradients[0][:, None].to(slope.dtype), None, None, None


class LossHead:
    """The forward pass of an output layer: losses (..., 1) while `targets` are set, else its own logits."""

    def __init__(self, module: nn.Linear) -> None:
        self.module, self.original = module, module.forward
        self.targets: Tensor | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        if self.targets is None:
            return self.original(hidden)
        flat = hidden.reshape(-1, hidden.shape[-1])
        losses = TokenLosses.apply(flat, self.module.weight, self.module.bias, self.targets)
        return losses.view(*hidden.shape[:-1], 1)

    @contextmanager
    def asked(self, targets: Tensor) -> Iterator[None]:
        """Inside, losses of `targets` come out."""
        self.targets = targets
        try:
            yield
        finally:
            self.targets = None


def fuse_head(model: Any) -> bool:
    """Make the output layer of `model` a `LossHead`, if it is a plain frozen layer; whether it is one now."""
    module = model.get_output_embeddings()
    if type(module) is not nn.Linear or any(one.requires_grad for one in module.parameters()):
        return False
    if not isinstance(module.forward, LossHead):
        module.forward = LossHead(module)
    return True


def release_head(model: Any) -> None:
    """Give the output layer its own forward pass back."""
    head = loss_head(model)
    if head:
        head.module.forward = head.original


def loss_head(model: Any) -> LossHead | None:
    """The `LossHead` of `model`, if it has one."""
    forward = getattr(model.get_output_embeddings(), "forward", None)
    return forward if isinstance(forward, LossHead) else None
