"""Where the tokens of flattened rows stand in a grid of rows, there and back. Knows tensors, not attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """How flattened rows lie: `prefix` tokens that belong to all, then each token at its slot of rows x width.

    What layers ask for again and again, such as masks, is made once and kept.
    """

    slots: Tensor
    rows: int
    width: int
    prefix: int
    made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def hidden(self, width: int, length: int, window: int | None, device: torch.device) -> Tensor:
        """What the last `width` tokens of `length` must not see, bool (width, length)."""
        return self.once(("hidden", width, length, window), lambda: _hidden(width, length, window, device))

    def bias(self, groups: int, width: int, length: int, window: int | None, like: Tensor) -> Tensor:
        """The same as numbers to add to scores, for `groups` heads one below the other."""

        def made() -> Tensor:
            hidden = self.hidden(width, length, window, like.device)
            return torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, float("-inf")).repeat(groups, 1)

        return self.once(("bias", groups, width, length, window), made)

    def spreading(self, heads: int, with_prefix: bool) -> Tensor:
        """For each place of (rows, heads, width), which of (token, head) stands there: any one where none does.

        `with_prefix`: for places of (rows, heads, prefix + width), where each row begins with the prefix.
        """

        def made() -> Tensor:
            tokens = self.slots.new_zeros(self.rows * self.width)
            tokens[self.slots] = torch.arange(len(self.slots), device=self.slots.device) + self.prefix
            tokens = tokens.view(self.rows, self.width)
            if with_prefix:
                first = torch.arange(self.prefix, device=self.slots.device).expand(self.rows, -1)
                tokens = torch.cat([first, tokens], 1)
            head = torch.arange(heads, device=self.slots.device)[:, None]
            return (tokens[:, None] * heads + head).flatten()

        return self.once(("spreading", heads, with_prefix), made)

    def collecting(self, heads: int, with_prefix: bool) -> Tensor:
        """For each (token, head) behind the prefix, its place in what `spreading` makes."""

        def made() -> Tensor:
            before = self.prefix if with_prefix else 0
            row, own = self.slots // self.width, self.slots % self.width
            head = torch.arange(heads, device=self.slots.device)
            return ((row[:, None] * heads + head) * (before + self.width) + before + own[:, None]).flatten()

        return self.once(("collecting", heads, with_prefix), made)

    def counts(self) -> list[int]:
        """How many tokens of its own each row has."""
        return torch.bincount(self.slots // self.width, minlength=self.rows).tolist()  # type: ignore[no-any-return]

    def once(self, name: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made the first time that `name` is asked for."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]


def _hidden(width: int, length: int, window: int | None, device: torch.device) -> Tensor:
    all_hidden = torch.ones(width, length, dtype=torch.bool, device=device)
    later = all_hidden.triu(1 + length - width)
    return later if window is None else later | all_hidden.tril(length - width - window)


def spread(x: Tensor, grid: Grid, with_prefix: bool) -> tuple[Tensor, Tensor]:
    """x (1, heads, T, d) as the prefix (1, heads, prefix, d) and the rows (rows, heads, width, d).

    `with_prefix`: each row begins with the prefix and is so much longer. Where no token stands there is some other.
    """
    return _Spread.apply(x, grid, with_prefix)  # type: ignore[no-any-return]


def collect(first: Tensor, rows: Tensor, grid: Grid) -> Tensor:
    """The other way: (1, heads, prefix, d) and (rows, heads, width, d) to (1, T, heads, d)."""
    return _Collect.apply(first, rows, grid)


class _Spread(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid, with_prefix: bool) -> tuple[Tensor, Tensor]:
        ctx.grid, ctx.with_prefix = grid, with_prefix
        heads, size = x.shape[1], x.shape[3]
        tokens = x[0].transpose(0, 1).reshape(-1, size)
        rows = tokens.index_select(0, grid.spreading(heads, with_prefix))
        return x[:, :, : grid.prefix].clone(), rows.view(grid.rows, heads, -1, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        first, rows = gradients
        grid, heads, size = ctx.grid, rows.shape[1], rows.shape[3]
        out = rows.new_empty(grid.prefix + len(grid.slots), heads, size)
        flat = rows.reshape(-1, size)
        torch.index_select(flat, 0, grid.collecting(heads, ctx.with_prefix), out=out[grid.prefix :].view(-1, size))
        if grid.prefix:
            own = first + rows[:, :, : grid.prefix].sum(0, keepdim=True) if ctx.with_prefix else first
            out[: grid.prefix] = own[0].transpose(0, 1)
        return out.transpose(0, 1)[None], None, None


class _Collect(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, first: Tensor, rows: Tensor, grid: Grid) -> Tensor:
        ctx.grid, ctx.shape = grid, rows.shape
        heads, size = rows.shape[1], rows.shape[3]
        out = rows.new_empty(grid.prefix + len(grid.slots), heads, size)
        flat = rows.reshape(-1, size)
        torch.index_select(flat, 0, grid.collecting(heads, False), out=out[grid.prefix :].view(-1, size))
        if grid.prefix:
            out[: grid.prefix] = first[0].transpose(0, 1)
        return out[None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (out,) = gradients
        grid, (_, heads, _, size) = ctx.grid, ctx.shape
        rows = out.new_zeros(ctx.shape)
        flat = out[0, grid.prefix :].reshape(-1, size)
        rows.view(-1, size).index_copy_(0, grid.collecting(heads, False), flat)
        return out[:, : grid.prefix].transpose(1, 2), rows, None
