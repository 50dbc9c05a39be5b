"""Banks: the resident adapters of one form, stacked module by module. Knows tensors, not digests or requests.

Adapters that adapt the same modules at the same ranks have one form; nothing in a bank is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Adapted modules that read one and the same input, the rank of each, and whether it has a DoRA gain."""

    modules: tuple[str, ...]
    ranks: tuple[int, ...]
    gains: tuple[bool, ...]


Form = tuple[Part, ...]


@dataclass(frozen=True)
class Place:
    """Where a module finds its stacks in a bank, and its share of the ranks that come of A."""

    part: int
    a: int
    ranks: slice
    b: int
    gain: int | None


def places(form: Form) -> dict[str, Place]:
    """By module: its stacks, which lie in the order A, then B and gain of each module, part after part."""
    found: dict[str, Place] = {}
    count = 0
    for number, part in enumerate(form):
        a, count = count, count + 1
        ends = list(accumulate(part.ranks))
        for module, rank, end, gain in zip(part.modules, part.ranks, ends, part.gains, strict=True):
            found[module] = Place(number, a, slice(end - rank, end), count, count + 1 if gain else None)
            count += 2 if gain else 1
    return found


class Bank:
    """Stacks (adapters, …) of the tensors of every adapter that is in it; `number` is its place among banks."""

    def __init__(self, number: int, form: Form, like: Sequence[Tensor], device: torch.device) -> None:
        self.number, self.form, self.places = number, form, places(form)
        self.stacks = [torch.empty(0, *tensor.shape, dtype=tensor.dtype, device=device) for tensor in like]
        self._capacity = 0
        self._free: list[int] = []

    @property
    def used(self) -> int:
        return self._capacity - len(self._free)

    def put(self, tensors: Sequence[Tensor]) -> int:
        """Copy an adapter in; its index."""
        if not self._free:
            self._grow(max(1, self._capacity // 4))
        index = self._free.pop()
        for stack, tensor in zip(self.stacks, tensors, strict=True):
            stack[index] = tensor
        return index

    def take(self, index: int) -> list[Tensor]:
        """Take an adapter out: a copy of its tensors."""
        self._free = sorted([*self._free, index], reverse=True)
        return [stack[index].clone() for stack in self.stacks]

    def _grow(self, count: int) -> None:
        """A quarter at a time, so that room to spare never costs much."""
        for number, stack in enumerate(self.stacks):
            # zeros: an index without an adapter takes part in products over neighbours
            self.stacks[number] = torch.cat([stack, stack.new_zeros(count, *stack.shape[1:])])
        self._free = list(range(self._capacity + count - 1, self._capacity - 1, -1))
        self._capacity += count
