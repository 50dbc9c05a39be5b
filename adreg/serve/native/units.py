"""How numbers lie in memory for decoder.c: units of 32 bits, in tiles of 32 outputs, two strips each. Knows no models."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adreg.formats.dtypes import Float32, to_bfloat16
from adreg.formats.safetensors import TensorView

LANES = 16
TILE = 32
LINE = 64
HUGE = 2 << 20
Dtype = Literal["bfloat16", "float32"]
Units: TypeAlias = "NDArray[np.uint32]"


def padded(number: int, to: int) -> int:
    """`number` rounded up to a multiple of `to`."""
    return -(-number // to) * to


@dataclass(frozen=True)
class Format:
    """The type that weights, adapters, keys and values are kept in."""

    dtype: Dtype

    @property
    def bf16(self) -> bool:
        return self.dtype == "bfloat16"

    @property
    def nbytes(self) -> int:
        """Bytes of one element."""
        return 2 if self.bf16 else 4

    def units(self, elements: int) -> int:
        """Units that hold `elements` elements."""
        return -(-elements // 2) if self.bf16 else elements

    def of_view(self, view: TensorView) -> Units:
        """The rows of a matrix on disk as units (rows, units)."""
        if self.bf16 and view.dtype == "BF16":
            return self._paired(np.frombuffer(view.data, "<u2").reshape(view.shape))
        return self.of_floats(view.float32())

    def of_floats(self, values: Float32) -> Units:
        """The rows of `values` (rows, elements) as units (rows, units), rounded once."""
        if self.bf16:
            return self._paired(to_bfloat16(values))
        return np.ascontiguousarray(values).view(np.uint32)

    def _paired(self, halves: NDArray[np.uint16]) -> Units:
        if halves.shape[1] % 2:
            halves = np.pad(halves, ((0, 0), (0, 1)))
        return np.ascontiguousarray(halves).view(np.uint32)


def strip_count(outputs: int) -> int:
    return -(-outputs // LANES)


def in_strips(rows: NDArray[Any]) -> NDArray[Any]:
    """`rows` (outputs, units) as strips (strips, units, 16), zeros in the lanes beyond the last output; a view if it can be."""
    missing = -len(rows) % LANES
    whole = np.pad(rows, ((0, missing), (0, 0))) if missing else rows
    strips: NDArray[Any] = whole.reshape(-1, LANES, rows.shape[1]).transpose(0, 2, 1)
    return strips


def write_strips(tiles: Units, places: range, strips: Units) -> None:
    """Put `strips` where `places` says, counted in strips, of `tiles` (tiles, units, 32)."""
    where = np.array(places)
    halves = tiles.reshape(*tiles.shape[:2], 2, LANES).transpose(0, 2, 1, 3)
    halves[where // 2, where % 2] = strips


def lazy(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros that begin at a page. Only small pages, and each comes into being when it is first touched: huge ones would
    bring all of a long sequence's memory at its first token."""
    return np.frombuffer(_small_pages(math.prod(shape) * np.dtype(dtype).itemsize), dtype).reshape(shape)


def _small_pages(nbytes: int) -> mmap.mmap:
    mapped = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        mapped.madvise(mmap.MADV_NOHUGEPAGE)
    return mapped


class Arena:
    """One zeroed piece of memory, in huge pages where the system has them, handed out in aligned parts.

    Without huge pages a step, which reads everything once, would wait for address translations. What does not fill a huge
    page lies in small ones: an adapter's last megabyte would otherwise cost two.
    """

    def __init__(self, nbytes: int) -> None:
        self._mapped = _small_pages(nbytes + HUGE)
        self._used = -np.frombuffer(self._mapped, np.uint8).ctypes.data % HUGE
        if hasattr(mmap, "MADV_HUGEPAGE") and nbytes >= HUGE:
            self._mapped.madvise(mmap.MADV_HUGEPAGE, self._used, nbytes // HUGE * HUGE)

    def take(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """The next part, of `shape`; there is room, or it is a bug."""
        count = math.prod(shape)
        part = np.frombuffer(self._mapped, dtype, count, self._used).reshape(shape)
        self._used += padded(part.nbytes, LINE)
        return part


def settled(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Copies of `arrays` next to each other in an arena of their own."""
    arena = Arena(sum(padded(array.nbytes, LINE) for array in arrays))
    copies = [arena.take(array.shape, array.dtype) for array in arrays]
    for copy, array in zip(copies, arrays, strict=True):
        copy[:] = array
    return copies
