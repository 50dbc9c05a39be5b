"""One tensor of an artifact as it is planned: its name, type, shape and size, and where its values come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from adreg.export.fold.folded import Folded, spans
from adreg.formats.dtypes import Float32


@dataclass(frozen=True)
class Transform:
    """How a target stores values that the base stores otherwise: `apply` takes whole groups of `group` rows, or with
    `group` 0 the whole tensor. `rows_only` says that it moves rows and nothing else, and so may be done to B alone;
    `transposes` says that rows become columns."""

    apply: Callable[[Float32], Float32]
    group: int = 1
    rows_only: bool = False
    transposes: bool = False


@dataclass(frozen=True)
class OutputTensor:
    """A tensor with its place in the target, not yet its type. `shape` is row-major; `values` are those of a tensor
    that no base tensor gives."""

    name: str
    shape: tuple[int, ...]
    folded: Folded | None
    transform: Transform | None = None
    values: tuple[float, ...] = ()

    @property
    def adapted(self) -> bool:
        return self.folded is not None and self.folded.adapted

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def spans(self) -> Iterator[tuple[int, int]]:
        """The blocks that `block` can be asked for, in order: rows of the stored tensor."""
        if self.folded is None:
            yield 0, len(self.values)
            return
        rows = self.folded.shape[0]
        group = self.transform.group if self.transform else 1
        yield from spans(rows, math.prod(self.folded.shape[1:]), group or rows)

    def block(self, start: int, stop: int, rounding: Callable[[Float32], Float32] | None = None) -> Float32:
        """The float32 values of one of `spans`, as the target stores them; `rounding` comes before the transform."""
        if self.folded is None:
            return np.array(self.values, dtype=np.float32)
        values = self.folded.block(start, stop)
        values = rounding(values) if rounding else values
        return self.transform.apply(values) if self.transform else values


@dataclass(frozen=True)
class PlannedTensor:
    """An output tensor in the type `dtype` of the target (safetensors' names or GGML's), `nbytes` long there."""

    output: OutputTensor
    dtype: str
    nbytes: int

    @property
    def name(self) -> str:
        return self.output.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.output.shape

    @property
    def adapted(self) -> bool:
        return self.output.adapted

    def stored(self, start: int, stop: int) -> memoryview | None:
        """Rows `start:stop` as they lie in a file already, where the target wants those very bytes."""
        folded = self.output.folded
        if folded is None or folded.updates or self.output.transform or folded.view.dtype != self.dtype:
            return None
        row = folded.view.nbytes // folded.shape[0]
        return folded.view.data[start * row : stop * row]
