"""A decoder layer as one autograd function, computed by layer.c. Knows tensors and adapters, not models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adreg.train.model.fused import Branch
from adreg.train.native.library import threads
from adreg.train.native.structs import GROUPS, SITES, Layer, Linear, Pass, Row

UNIT = 32
"""Every width must be a multiple of this."""
WIDEST_HEAD = 256


@dataclass(frozen=True)
class Shape:
    """What of a layer is not in its matrices: its norms' weights, and how attention divides its width."""

    norm_in: Tensor
    norm_mlp: Tensor
    eps: float
    score_scale: float
    head_dim: int


def obstacle(branches: Sequence[Branch], shape: Shape) -> str | None:
    """Why layer.c cannot compute these branches, q, k, v, o, gate, up and down, in words."""
    weights = [branch.frozen.weight for branch in branches]
    given = [*weights, shape.norm_in, shape.norm_mlp, *(b.frozen.bias for b in branches if b.frozen.bias is not None)]
    if not all(_is_plain(one, torch.bfloat16) for one in given):
        return "weights that do not lie in this machine's memory as bfloat16, row after row"
    if not all(_is_plain(one, torch.float32) for branch in branches for one in (branch.a, branch.b) if one is not None):
        return "adapters that do not lie in this machine's memory as float32, row after row"
    if any(branch.frozen.dropout for branch in branches):
        return "dropout"
    if any(width % UNIT for weight in weights for width in weight.shape) or shape.head_dim % UNIT:
        return f"widths that are no multiple of {UNIT}"
    return f"heads wider than {WIDEST_HEAD}" if shape.head_dim > WIDEST_HEAD else None


def _is_plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    known = type(tensor) in (Tensor, nn.Parameter) and tensor.dtype == dtype
    return known and tensor.device.type == "cpu" and tensor.is_contiguous()


class DecoderLayer(torch.autograd.Function):  # type: ignore[misc]
    """hidden (1, T, width) to the same; `factors` are A and B of each of the seven branches in turn, or None."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, cos: Tensor, sin: Tensor, call: Call, *factors: Tensor | None) -> Tensor:
        hidden, cos, sin = hidden.contiguous(), cos.contiguous(), sin.contiguous()
        out, layer = torch.empty_like(hidden), call.layer(factors)
        workers = threads(torch.get_num_threads())
        kept = torch.empty(workers.kept(layer, hidden.shape[1]), dtype=torch.uint8)
        workers.run(layer, call.there(hidden, cos, sin, kept, out))
        ctx.call = call
        ctx.save_for_backward(hidden, cos, sin, kept, *factors)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        hidden, cos, sin, kept, *factors = ctx.saved_tensors
        call, back = ctx.call, gradients[0].contiguous()
        layer = call.layer(factors)
        given = _gradients(layer, factors)
        before = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        threads(torch.get_num_threads()).run(layer, call.back(hidden, cos, sin, kept, back, before))
        return (before, None, None, None, *given)


@dataclass(frozen=True)
class Call:
    """A layer's frozen part, and the rows that it is computed on."""

    branches: Sequence[Branch]
    shape: Shape
    rows: Any

    def layer(self, factors: Sequence[Tensor | None]) -> Layer:
        """The structure that points at everything; it lives no longer than what it points at."""
        shape, weights = self.shape, [branch.frozen.weight for branch in self.branches]
        pairs = zip(factors[::2], factors[1::2], strict=True)
        return Layer(
            (Linear * len(SITES))(*(_linear(branch, *pair) for branch, pair in zip(self.branches, pairs, strict=True))),
            norm_in=shape.norm_in.data_ptr(),
            norm_mlp=shape.norm_mlp.data_ptr(),
            eps=shape.eps,
            score_scale=shape.score_scale,
            hidden=weights[0].shape[1],
            heads=weights[0].shape[0] // shape.head_dim,
            kv_heads=weights[1].shape[0] // shape.head_dim,
            head_dim=shape.head_dim,
            inner=weights[4].shape[0],
        )

    def there(self, hidden: Tensor, cos: Tensor, sin: Tensor, kept: Tensor, out: Tensor) -> Pass:
        return self._pass(hidden, cos, sin, kept, y=out.data_ptr())

    def back(self, hidden: Tensor, cos: Tensor, sin: Tensor, kept: Tensor, back: Tensor, before: Tensor | None) -> Pass:
        return self._pass(hidden, cos, sin, kept, dy=back.data_ptr(), dx=None if before is None else before.data_ptr())

    def _pass(self, hidden: Tensor, cos: Tensor, sin: Tensor, kept: Tensor, **ends: int | None) -> Pass:
        return Pass(
            row=self.rows,
            rows=len(self.rows),
            tokens=hidden.shape[1],
            x=hidden.data_ptr(),
            cosines=cos.data_ptr(),
            sines=sin.data_ptr(),
            kept=kept.data_ptr(),
            **ends,
        )


def _linear(branch: Branch, a: Tensor | None, b: Tensor | None) -> Linear:
    frozen = branch.frozen
    outputs, inputs = frozen.weight.shape
    linear = Linear(weight=frozen.weight.data_ptr(), inputs=inputs, outputs=outputs, scaling=frozen.scaling)
    if frozen.bias is not None:
        linear.bias = frozen.bias.data_ptr()
    if a is not None and b is not None:
        linear.a, linear.b, linear.rank = a.data_ptr(), b.data_ptr(), len(a)
    return linear


def _gradients(layer: Layer, factors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Room for the gradients of A and B, which `layer` points at from now on. The A of a group lie one below the other."""
    given: list[Tensor | None] = [None] * len(factors)
    for group in GROUPS:
        adapted = [site for site in group if layer.linear[site].rank]
        ranks = [-(-layer.linear[site].rank // 2) * 2 for site in adapted]
        together = torch.empty(sum(ranks), layer.linear[group[0]].inputs)
        layer.linear[group[0]].da = together.data_ptr()
        for site, part in zip(adapted, together.split(ranks), strict=True):
            linear = layer.linear[site]
            b = torch.empty(linear.outputs, linear.rank)
            linear.db = b.data_ptr()
            given[2 * site : 2 * site + 2] = part[: linear.rank], b
    return given


def rows_of(counts: Sequence[int], prefix: int) -> Any:
    """Flattened rows of `counts` tokens behind `prefix` ones that all of them see: those come last."""
    rows, start = [], prefix
    for count in counts:
        rows.append(Row(start, count, prefix))
        start += count
    if prefix:
        rows.append(Row(0, prefix, 0))
    return (Row * len(rows))(*rows)
