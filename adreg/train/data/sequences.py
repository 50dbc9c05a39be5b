"""The rows of a training in their order, drawn from several files. Knows which row is where, not what is in it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from adreg.train.data.cache import Tokens
from adreg.train.data.encode import Example, Pair

Places = NDArray[np.int64]
Item = TypeVar("Item", Example, Pair)


@dataclass(frozen=True)
class Rows(Sequence[Item], Generic[Item]):
    """Rows of `files`, those at `places`: a row's number counts through the files in order. `size` is 2 for pairs."""

    files: tuple[Tokens, ...]
    places: Places
    size: int = 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each row; of a pair, those of both."""
        each = [file.lengths.reshape(-1, self.size).sum(1) for file in self.files]
        return np.concatenate(each)[self.places] if each else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> list[Item]: ...
    def __getitem__(self, row: int | slice) -> Item | list[Item]:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        place = int(self.places[row])
        for file in self.files:
            count = len(file) // self.size
            if place < count:
                return Pair(file[2 * place], file[2 * place + 1]) if self.size == 2 else file[place]  # type: ignore[return-value]
            place -= count
        raise IndexError(row)

    def __iter__(self) -> Iterator[Item]:
        return (self[row] for row in range(len(self)))


def split(count: int, share: float, seed: int) -> tuple[Places, Places]:
    """Hold out `share` of `count` rows, at least one where there are two, drawn by `seed`; both keep their order."""
    held = min(max(round(count * share), 1), count - 1) if share and count > 1 else 0
    chosen = np.array(sorted(random.Random(seed).sample(range(count), held)), dtype=np.int64)
    return np.setdiff1d(np.arange(count, dtype=np.int64), chosen), chosen


def weighted(places: Places, counts: Sequence[int], weights: Sequence[float], seed: int) -> Places:
    """`places` as often as the weight of their file says; of a fraction, so many rows are drawn by `seed`.

    `counts` are the numbers of rows of the files, in whose order `places` counts.
    """
    ends = np.cumsum(counts)
    draw, found = random.Random(seed), []
    for start, end, weight in zip([0, *ends], ends, weights, strict=False):
        own = places[(places >= start) & (places < end)]
        whole = int(weight)
        part = draw.sample(range(len(own)), round(len(own) * (weight - whole)))
        found += [own] * whole + [own[sorted(part)]]
    return np.concatenate(found) if found else places
