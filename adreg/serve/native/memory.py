"""Keys and values of one sequence as decoder.c keeps them, and their way in and out of the prefix cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adreg.serve.native.architecture import Architecture
from adreg.serve.native.units import TILE, Format, lazy, padded


@dataclass(frozen=True)
class MemoryForm:
    """What every sequence's memory of a model looks like."""

    layers: int
    kv_heads: int
    head_dim: int
    form: Format

    @classmethod
    def of(cls, architecture: Architecture, form: Format) -> MemoryForm:
        return cls(architecture.layers, architecture.kv_heads, architecture.head_dim, form)

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * self.form.nbytes

    def open(self, tokens: int) -> KvMemory:
        """Zeroed room for `tokens` positions."""
        capacity = padded(tokens, TILE)
        keys, values = capacity * self.form.units(self.head_dim), padded(self.head_dim, TILE) * self.form.units(capacity)
        return KvMemory(self, capacity, keys, lazy((self.layers, self.kv_heads, keys + values), np.uint32))


@dataclass(frozen=True, eq=False)
class KvMemory:
    """Room for `capacity` positions; `units` is (layers, kv_heads, `key_units` of keys and then those of values), in tiles."""

    form: MemoryForm
    capacity: int
    key_units: int
    units: NDArray[np.uint32]

    @property
    def address(self) -> int:
        return int(self.units.ctypes.data)

    @property
    def _keys(self) -> NDArray[np.uint32]:
        """(layers, kv_heads, tile of positions, unit of a head, position in its tile)."""
        return self.units[:, :, : self.key_units].reshape(*self.units.shape[:2], self.capacity // TILE, -1, TILE)

    @property
    def _values(self) -> NDArray[Any]:
        """(layers, kv_heads, tile of a head's elements, unit of positions, element in its tile, position in its unit)."""
        halves, each = (np.uint16, 2) if self.form.form.bf16 else (np.uint32, 1)
        values = self.units[:, :, self.key_units :].view(halves)
        return values.reshape(*self.units.shape[:2], -1, self.capacity // each, TILE, each)

    def _positions(self, start: int, stop: int) -> NDArray[np.int64]:
        if not 0 <= start <= stop <= self.capacity:
            raise ValueError(f"positions {start} to {stop} in room for {self.capacity}")
        return np.arange(start, stop)

    def copy_out(self, start: int, stop: int) -> NDArray[Any]:
        """Keys and values of positions `start` to `stop`: (positions, layers, kv_heads, 2, head_dim) as raw bits."""
        values, positions = self._values, self._positions(start, stop)
        each, width = values.shape[-1], self.form.head_dim
        block = np.empty((stop - start, *self.units.shape[:2], 2, width), values.dtype)
        block[:, :, :, 0] = self._keys[:, :, positions // TILE, :, positions % TILE].view(values.dtype)
        found = values[:, :, :, positions // each, :, positions % each]
        block[:, :, :, 1] = found.reshape(*block.shape[:3], -1)[..., :width]
        return block

    def copy_in(self, start: int, block: NDArray[Any]) -> None:
        """Write what `copy_out` gave to positions from `start` on."""
        values, positions = self._values, self._positions(start, start + len(block))
        each, tiles = values.shape[-1], values.shape[2]
        keys = np.ascontiguousarray(block[:, :, :, 0]).view(np.uint32)
        self._keys[:, :, positions // TILE, :, positions % TILE] = keys
        padding = ((0, 0), (0, 0), (0, 0), (0, tiles * TILE - self.form.head_dim))
        tiled = np.pad(block[:, :, :, 1], padding).reshape(*block.shape[:3], tiles, TILE)
        values[:, :, :, positions // each, :, positions % each] = tiled
