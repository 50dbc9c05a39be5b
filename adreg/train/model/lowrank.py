"""Layers W x + bias + s B A dropout(x) that read one input, forward and back, as one autograd function. Knows tensors.

W is frozen, so it has no gradient; A and B are float32 and cast once a call, everything else stays in the type of x. Layers
share one thin product of x with all their A, stacked, and the sum of what they send back is never held apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Frozen:
    """What of a layer is not trained: W (out, in) and its bias in the base's type, LoRA's scaling and rate of dropout."""

    weight: Tensor
    bias: Tensor | None
    scaling: float = 1.0
    dropout: float = 0.0


@dataclass(slots=True)
class Layers:
    """Layers of one input x (N, in), of which those at the places `adapted` have an adapter.

    `s` (N, R) is dropout(x) A' of all of these side by side, `a` (R, in) their A over the share that dropout keeps, `b` their
    scaled B (out, r), `kept` the masks of dropout, empty without. s, a and b are in the type of x.
    """

    frozen: Sequence[Frozen]
    adapted: list[int]
    s: Tensor | None
    a: Tensor | None
    b: list[Tensor]
    kept: list[Tensor]

    @classmethod
    def start(cls, x: Tensor, frozen: Sequence[Frozen], factors: Sequence[Tensor | None]) -> Layers:
        """Half way through the adapters from `x`; `factors` are A and B of each layer in turn, None where it has none."""
        adapted = [place for place in range(len(frozen)) if factors[2 * place] is not None]
        layers = [frozen[place] for place in adapted]
        a = [_over(factors[2 * place], 1 - layer.dropout) for place, layer in zip(adapted, layers, strict=True)]
        b = [_times(factors[2 * p + 1], layer.scaling).to(x.dtype) for p, layer in zip(adapted, layers, strict=True)]
        if not adapted:
            return cls(frozen, adapted, None, None, b, [])
        stacked = torch.cat(a).to(x.dtype)
        if not any(layer.dropout for layer in layers):
            return cls(frozen, adapted, x @ stacked.t(), stacked, b, [])
        kept = [torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - layer.dropout) for layer in layers]
        parts = [(x * mask) @ one.t() for mask, one in zip(kept, stacked.split([len(one) for one in a]), strict=True)]
        return cls(frozen, adapted, torch.cat(parts, 1), stacked, b, kept)

    def tensors(self) -> list[Tensor]:
        """What to keep for the way back, in the order that `again` takes it."""
        return [] if self.s is None or self.a is None else [self.s, self.a, *self.b, *self.kept]

    @classmethod
    def again(cls, frozen: Sequence[Frozen], adapted: list[int], tensors: Sequence[Tensor]) -> Layers:
        """From what `tensors` gave."""
        if not adapted:
            return cls(frozen, adapted, None, None, [], [])
        s, a, *rest = tensors
        return cls(frozen, adapted, s, a, rest[: len(adapted)], rest[len(adapted) :])

    def outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Each layer's output (N, out) for the same x."""
        sides = dict(zip(self.adapted, zip(self._ranks(self.s), self.b, strict=True), strict=True))
        for place, layer in enumerate(self.frozen):
            out = x @ layer.weight.t() if layer.bias is None else torch.addmm(layer.bias, x, layer.weight.t())
            yield out.addmm_(sides[place][0], sides[place][1].t()) if place in sides else out

    def back(self, x: Tensor | None, outs: Sequence[Tensor], wanted: bool) -> tuple[Tensor | None, list[Tensor | None]]:
        """From the outputs' gradients: that of x, if `wanted`, and in float32 those of A and B of each layer in turn.

        `x` may be None where no layer is adapted.
        """
        given: list[Tensor | None] = [None] * (2 * len(self.frozen))
        total = self._through(outs) if wanted else None
        if x is None or self.a is None:
            return total, given
        chosen = [outs[place] for place in self.adapted]
        back = torch.cat([out @ b for out, b in zip(chosen, self.b, strict=True)], 1)
        for place, a, s, out in zip(self.adapted, self._lost(x, back), self._ranks(self.s), chosen, strict=True):
            given[2 * place] = _over(a.float(), 1 - self.frozen[place].dropout)
            given[2 * place + 1] = (s.t() @ out).t().float().mul_(self.frozen[place].scaling)
        return None if total is None else self._add(total, back), given

    def _ranks(self, side: Tensor | None) -> Sequence[Tensor]:
        """(N, R) as one (N, r) for each adapted layer."""
        ranks = [b.shape[1] for b in self.b]
        return [] if side is None else side.split(ranks, 1)

    def _through(self, outs: Sequence[Tensor]) -> Tensor:
        total = outs[0] @ self.frozen[0].weight
        for out, layer in zip(outs[1:], self.frozen[1:], strict=True):
            total.addmm_(out, layer.weight)
        return total

    def _lost(self, x: Tensor, back: Tensor) -> Sequence[Tensor]:
        if not self.kept:
            return list((back.t() @ x).split([b.shape[1] for b in self.b]))
        return [part.t() @ (x * mask) for part, mask in zip(self._ranks(back), self.kept, strict=True)]

    def _add(self, total: Tensor, back: Tensor) -> Tensor:
        """Adds what comes back through the adapters to `total`, in place."""
        assert self.a is not None
        if not self.kept:
            return total.addmm_(back, self.a)
        for part, a, mask in zip(self._ranks(back), self.a.split([b.shape[1] for b in self.b]), self.kept, strict=True):
            total.addcmul_(part @ a, mask.to(total.dtype))
        return total


def _over(tensor: Any, share: float) -> Any:
    return tensor if share == 1 else tensor / share


def _times(tensor: Any, scaling: float) -> Any:
    return tensor if scaling == 1 else tensor * scaling


class LoraGroup(torch.autograd.Function):  # type: ignore[misc]
    """The outputs (..., out) of `frozen` layers for x (..., in); `factors` are A and B of each in turn, or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: tuple[Frozen, ...], *factors: Tensor | None) -> tuple[Tensor, ...]:
        flat = x.reshape(-1, x.shape[-1])
        layers = Layers.start(flat, frozen, factors)
        ctx.frozen, ctx.adapted = frozen, layers.adapted
        ctx.save_for_backward(*([flat, *layers.tensors()] if layers.adapted else []))
        return tuple(out.view(*x.shape[:-1], -1) for out in layers.outputs(flat))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, *kept = ctx.saved_tensors or (None,)
        layers = Layers.again(ctx.frozen, ctx.adapted, kept)
        outs = [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
        total, given = layers.back(x, outs, ctx.needs_input_grad[0])
        return (None if total is None else total.view(*gradients[0].shape[:-1], -1), None, *given)
