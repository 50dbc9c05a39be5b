"""Keys and values of one sequence: one allocation, seen as a pair of views a layer. Knows shapes, not models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROUND = 32
"""Of this many tokens, heads of any width end where a line of the processor's cache does; numbers can depend on that."""


@dataclass(frozen=True)
class LayerShape:
    """Heads of a layer's keys and values, and the width of a head of each."""

    heads: int
    key: int
    value: int


@dataclass(frozen=True)
class MemoryShape:
    """What one token of context leaves in every layer."""

    layers: tuple[LayerShape, ...]
    dtype: torch.dtype
    device: torch.device

    @cached_property
    def bytes_per_token(self) -> int:
        size: int = self.dtype.itemsize
        return size * sum(layer.heads * (layer.key + layer.value) for layer in self.layers)


class SequenceMemory:
    """Room for `tokens` tokens and a few more; `layers` are the keys and values of each layer, (heads, room, width)."""

    def __init__(self, shape: MemoryShape, tokens: int) -> None:
        self.shape = shape
        tokens += -tokens % ROUND
        sizes = [(layer.heads, tokens, width) for layer in shape.layers for width in (layer.key, layer.value)]
        whole = torch.empty(sum(map(math.prod, sizes)), dtype=shape.dtype, device=shape.device)
        pieces = whole.split([math.prod(size) for size in sizes])
        self._views = [piece.view(size) for piece, size in zip(pieces, sizes, strict=True)]
        self.layers = list(zip(self._views[::2], self._views[1::2], strict=True))

    def copy_out(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The bytes of positions `start` to `stop`, layer after layer."""
        block = torch.cat([view[:, start:stop].reshape(-1) for view in self._views])
        copied: NDArray[np.uint8] = block.view(torch.uint8).cpu().numpy()
        return copied

    def copy_in(self, start: int, block: NDArray[Any]) -> None:
        """Write what `copy_out` gave to positions from `start` on."""
        count = block.nbytes // self.shape.bytes_per_token
        values = torch.from_numpy(block).view(self.shape.dtype)
        parts = [view[:, start : start + count] for view in self._views]
        for part, piece in zip(parts, values.split([part.numel() for part in parts]), strict=True):
            part.copy_(piece.view(part.shape))
