"""One tensor of the result: the stored values it starts from and the updates it takes, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from adreg.errors import FormatError
from adreg.formats.dtypes import Float32
from adreg.formats.safetensors import TensorView

BLOCK_ELEMENTS = 1 << 20


class Update(Protocol):
    """What one adapter does to one tensor. An update of several blocks may be asked from several threads at once."""

    @property
    def label(self) -> str:
        """The adapter, as messages call it."""

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        """`values` are rows `start:stop` as they are so far, writable; the answer is what they become, often in place."""


@dataclass(frozen=True)
class Folded:
    """A tensor called `name` in the base, of type `dtype` there. It starts from `view`: the base's own tensor, or the
    one that an adapter puts in its place."""

    name: str
    view: TensorView
    dtype: str
    updates: tuple[Update, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    @property
    def adapted(self) -> bool:
        """Whether anything of an adapter is in it."""
        return bool(self.updates) or self.view.name != self.name

    def block(self, start: int, stop: int) -> Float32:
        """Rows `start:stop` of the result in float32, not yet rounded to any type. Safe to call from several threads.

        Raises `FormatError` (Q-NAN-1) for a result that is not finite.
        """
        values = self.view.rows(start, stop)
        if not self.adapted:
            return values
        values = values if values.flags.writeable else values.copy()
        for update in self.updates:
            values = update.apply(values, start, stop)
        if not np.isfinite(values).all():
            labels = ", ".join(update.label for update in self.updates) or self.view.name
            raise FormatError(self.name, f"is no longer finite after merging {labels}", "Q-NAN-1")
        return values


def spans(rows: int, width: int, group: int = 1) -> Iterator[tuple[int, int]]:
    """The blocks of a tensor of `rows` rows of `width` elements: whole groups of `group` rows, about 4 MiB in float32,
    which stay in a processor's cache from the first step of the arithmetic to the last."""
    step = max(BLOCK_ELEMENTS // max(width, 1) // group, 1) * group
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
