"""The LoRA product of rows that belong to different adapters, in three ways that agree but for rounding.

All take stacks A (adapters, ranks, inside) and B (adapters, rank, outside), and rows sorted by adapter. Which one is
quickest depends on the machine, on rows and on adapters: see `calibration`. No row ever meets another adapter's values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """Rows `start` to `stop` belong to the adapter at `index` of its bank."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class Runs:
    """Whose the rows are; a run after the other, by index."""

    runs: tuple[Run, ...]
    device: torch.device

    @property
    def rows(self) -> int:
        return self.runs[-1].stop if self.runs else 0

    @cached_property
    def span(self) -> slice:
        """The adapters from the first to the last that has rows."""
        return slice(self.runs[0].index, self.runs[-1].index + 1)

    @cached_property
    def counts(self) -> list[int]:
        """Rows of every adapter in `span`."""
        counts = [0] * (self.span.stop - self.span.start)
        for run in self.runs:
            counts[run.index - self.span.start] = run.stop - run.start
        return counts

    @cached_property
    def index(self) -> Tensor:
        """Of every row, the index of its adapter."""
        return torch.tensor([run.index for run in self.runs for _ in range(run.stop - run.start)], device=self.device)

    @cached_property
    def own(self) -> Tensor:
        """(rows, adapters in `span`, 1): whether the row is the adapter's."""
        indices = torch.arange(self.span.start, self.span.stop, device=self.device)
        return (self.index[:, None] == indices)[:, :, None]

    @cached_property
    def offsets(self) -> Tensor:
        """Where the rows of every adapter in `span` end."""
        return torch.tensor(list(accumulate(self.counts)), dtype=torch.int32, device=self.device)


@dataclass(frozen=True)
class Op:
    """`shrink(x, A, runs)` gives x·Aᵀ (rows, [adapters,] ranks); `expand(out, hidden, B, runs)` adds hidden·B to `out`."""

    name: str
    shrink: Callable[[Tensor, Tensor, Runs], Tensor]
    expand: Callable[[Tensor, Tensor, Tensor, Runs], None]


def _segments_shrink(x: Tensor, a: Tensor, runs: Runs) -> Tensor:
    hidden = x.new_empty(x.shape[0], a.shape[1])
    for run in runs.runs:
        torch.mm(x[run.start : run.stop], a[run.index].T, out=hidden[run.start : run.stop])
    return hidden


def _segments_expand(out: Tensor, hidden: Tensor, b: Tensor, runs: Runs) -> None:
    for run in runs.runs:
        out[run.start : run.stop].addmm_(hidden[run.start : run.stop], b[run.index])


def _grouped_shrink(x: Tensor, a: Tensor, runs: Runs) -> Tensor:
    return F.grouped_mm(x, a[runs.span].transpose(1, 2), offs=runs.offsets)


def _grouped_expand(out: Tensor, hidden: Tensor, b: Tensor, runs: Runs) -> None:
    out += F.grouped_mm(hidden, b[runs.span], offs=runs.offsets)


def _masked_shrink(x: Tensor, a: Tensor, runs: Runs) -> Tensor:
    side_by_side = a[runs.span]
    return F.linear(x, side_by_side.flatten(0, 1)).unflatten(1, side_by_side.shape[:2])


def _masked_expand(out: Tensor, hidden: Tensor, b: Tensor, runs: Runs) -> None:
    # chosen, not multiplied by zero: what overflowed under another adapter is infinite, and 0 · inf is NaN
    own = torch.where(runs.own, hidden, 0) if len(runs.runs) > 1 else hidden
    out.addmm_(own.reshape(out.shape[0], -1), b[runs.span].flatten(0, 1))


SEGMENTS = Op("segments", _segments_shrink, _segments_expand)
"""A product a run: the reference, whose numbers depend on the run alone."""
GROUPED = Op("grouped", _grouped_shrink, _grouped_expand)
MASKED = Op("masked", _masked_shrink, _masked_expand)
"""One product over the ranks of all adapters side by side; what is not a row's own is then cut out."""


def available() -> Sequence[Op]:
    """The ops that this torch has."""
    return (SEGMENTS, MASKED, GROUPED) if hasattr(F, "grouped_mm") else (SEGMENTS, MASKED)
