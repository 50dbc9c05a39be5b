"""The thinning methods on dense updates of one weight, a block of rows at a time. Knows numbers only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from adreg.export.combine.settings import Combination, Method
from adreg.export.fold.lora import LoraUpdate
from adreg.formats.dtypes import Float32

DRAWS_PER_STEP = 4  # 64-bit numbers that Philox makes of one count


@dataclass(frozen=True)
class SparseUpdate:
    """Several LoRA updates of one tensor as a thinning method joins them; `weights` are the user's, which the factors of
    `parts` do not hold. `shape` is that of the stored tensor."""

    parts: tuple[LoraUpdate, ...]
    weights: tuple[float, ...]
    combination: Combination
    shape: tuple[int, ...]

    @property
    def label(self) -> str:
        return ", ".join(part.label for part in self.parts)

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        """Add the joined update of rows `start:stop`; in place."""
        values += self.rows(start, stop)
        return values

    def rows(self, start: int, stop: int) -> Float32:
        """Rows `start:stop` of the joined update."""
        thinned = np.stack([self._thinned(index, start, stop) for index in range(len(self.parts))])
        weighted = thinned * np.array(self.weights, dtype=np.float32).reshape(-1, 1, 1)
        if self.combination.method is Method.MAGNITUDE_PRUNE:
            return np.asarray(weighted.sum(axis=0))
        agrees = _agreeing(thinned)
        return np.asarray((weighted * agrees).sum(axis=0) / np.maximum(agrees.sum(axis=0, dtype=np.float32), 1))

    def _thinned(self, index: int, start: int, stop: int) -> Float32:
        delta = _dense(self.parts[index], start, stop, self.shape)
        if self.combination.kept == 1:
            return delta
        if self.combination.method is Method.DARE_TIES:
            return delta * self._drawn(index, start, stop) / np.float32(self.combination.kept)
        return delta * (np.abs(delta) >= self._thresholds[index])

    @cached_property
    def _thresholds(self) -> tuple[float, ...]:
        """The smallest magnitude that stays, a source; it takes the whole update to know it."""
        return tuple(_threshold(_dense(part, 0, self.shape[0], self.shape), self.combination.kept) for part in self.parts)

    def _drawn(self, index: int, start: int, stop: int) -> NDArray[np.bool_]:
        """Which elements of rows `start:stop` stay: the same whatever the blocks are."""
        width = self.shape[1]
        seed = f"{self.combination.seed}:{index}:{self.parts[index].module.name}".encode()
        source = np.random.Philox(key=int.from_bytes(hashlib.sha256(seed).digest()[:16], "little"))
        first, extra = divmod(start * width, DRAWS_PER_STEP)
        draws = source.advance(first).random_raw(extra + (stop - start) * width)[extra:]
        kept: NDArray[np.bool_] = draws < np.uint64(min(int(self.combination.kept * 2.0**64), 2**64 - 1))
        return kept.reshape(stop - start, width)


def _agreeing(updates: Float32) -> NDArray[np.bool_]:
    """Where each of the stacked updates has the sign that most of their mass has; a zero agrees with nothing."""
    elected = np.where(updates.sum(axis=0) >= 0, np.float32(1), np.float32(-1))
    agreeing: NDArray[np.bool_] = np.sign(updates) == elected
    return agreeing


def _dense(part: LoraUpdate, start: int, stop: int, shape: Sequence[int]) -> Float32:
    return part.apply(np.zeros((stop - start, *shape[1:]), dtype=np.float32), start, stop)


def _threshold(delta: Float32, kept: float) -> float:
    """The magnitude of the last of the `kept` share of elements, counted from the largest; infinite where none stays."""
    count = int(kept * delta.size)
    magnitudes = np.abs(delta).ravel()
    return float(np.partition(magnitudes, delta.size - count)[delta.size - count]) if count else float("inf")
