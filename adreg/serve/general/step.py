"""One step over a flat batch: which rows are whose, and how each sequence attends.

A step is made for one forward and handed through the model; nothing of it outlives that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from adreg.serve.executor import BLOCK, Segment
from adreg.serve.general.attention import Rules, attend_many, attend_one, causal
from adreg.serve.general.memory import SequenceMemory


@dataclass(eq=False)
class Span:
    """The rows of one sequence: tokens at positions from `start` on of its memory."""

    memory: SequenceMemory
    start: int
    rows: slice
    _seen: dict[int | None, Tensor | None] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return int(self.rows.stop - self.rows.start)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        """Remember the new keys and values; the outputs of the span's rows, (rows, heads, width)."""
        keys, values = self.memory.layers[layer]
        stop = self.start + self.count
        keys[:, self.start : stop] = key[:, self.rows]
        values[:, self.start : stop] = value[:, self.rows]
        first = 0 if rules.window is None else max(0, self.start - rules.window + 1)
        keys, values, query = keys[:, first:stop], values[:, first:stop], query[:, self.rows]
        if self.count == 1:
            return attend_one(query, keys, values, rules)
        return attend_many(query, keys, values, rules, self._mask(stop - first, rules.window, query.device))

    def _mask(self, length: int, window: int | None, device: torch.device) -> Tensor | None:
        """The same for all layers of one kind; None where the whole sequence is here and no window cuts it."""
        if window not in self._seen:
            whole = length == self.count and (window is None or length <= window)
            self._seen[window] = None if whole else causal(self.count, length, window, device)
        return self._seen[window]


@dataclass(frozen=True)
class Layout:
    """A flat batch: `tokens` at `positions`, the `spans` of its sequences, and the rows whose logits are `wanted`."""

    tokens: Sequence[int]
    positions: Sequence[int]
    spans: Sequence[Span]
    wanted: Sequence[int]


def lay_out(segments: Sequence[Segment]) -> Layout:
    """`segments` one after the other."""
    tokens: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    wanted: list[int] = []
    for segment in segments:
        begin = len(tokens)
        tokens += segment.tokens
        positions += range(segment.start, segment.start + len(segment.tokens))
        spans.append(Span(segment.memory, segment.start, slice(begin, len(tokens))))
        wanted += range(len(tokens) - segment.outputs, len(tokens))
    return Layout(tokens, positions, spans, wanted)


def cut(segment: Segment) -> Iterator[Segment]:
    """`segment` in pieces that end at multiples of `BLOCK` positions."""
    stop = segment.start + len(segment.tokens)
    cuts = [segment.start, *range((segment.start // BLOCK + 1) * BLOCK, stop, BLOCK), stop]
    for begin, end in pairwise(cuts):
        tokens = segment.tokens[begin - segment.start : end - segment.start]
        yield replace(segment, start=begin, tokens=tokens, outputs=min(len(tokens), max(0, end - stop + segment.outputs)))


@dataclass(eq=False)
class Step:
    """What the model's layers are given of one forward."""

    spans: Sequence[Span]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        return torch.cat([span.attend(layer, query, key, value, rules) for span in self.spans])
