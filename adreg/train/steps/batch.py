"""The rows of a step as batches: laid end to end, or padded where a model needs it. Knows tensors, not models.

Rows are flattened to one [1, T] sequence with restarting positions and without an attention mask. The first label of
every row is -100, so no label crosses from one row to the next. Where attention can do it, the tokens that all rows
begin with, such as a system prompt, are laid down and computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from adreg.train.data.encode import IGNORED, Example

Batch = dict[str, Any]
CALL_TOKENS = 96
"""A batch of its own costs about as much as so many tokens more."""
SQUARE = 1000
"""Attention between so many pairs of tokens costs about as much as a token does elsewhere, in a small model."""


def plan_micro_batches(lengths: Sequence[int], budget: int, padded: bool = False) -> list[list[int]]:
    """Split rows of `lengths` tokens into groups of at most `budget` tokens and about equal size, longest rows first.

    A row longer than the budget gets a group of its own; so do rows so much shorter than the longest of a group that
    padding them, inside attention or (`padded`) everywhere, would cost more. Every row is in exactly one group.
    """
    target = sum(lengths) / max(math.ceil(sum(lengths) / budget), 1)
    groups: list[list[int]] = []
    filled, lost = 0, 0.0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        own, widest = lengths[row], lengths[groups[-1][0]] if groups else 0
        more = widest - own if padded else (widest**2 - own**2) / SQUARE
        taken = widest if padded else own
        if not groups or filled >= target or filled + taken > budget or lost + more > CALL_TOKENS:
            groups.append([])
            filled, lost, more, taken = 0, 0.0, 0.0, own
        groups[-1].append(row)
        filled, lost = filled + taken, lost + more
    return groups


@dataclass(frozen=True)
class Layout:
    """How rows become a batch: laid end to end, what they begin with computed once, or padded to one width.

    `attention` is the name of the attention that this is for; `single` puts every row in a batch of its own.
    """

    attention: str
    share: bool = False
    padded: bool = False
    single: bool = False

    def batch(self, examples: Sequence[Example]) -> Batch:
        """The examples as one batch."""
        return pad(examples) if self.padded else flatten(examples, self.share)

    def micro_batches(self, examples: Sequence[Example], budget: int) -> list[Batch]:
        """The examples of one step as batches of at most `budget` tokens to compute; a longer one is alone."""
        prefix = shared_prefix(examples) if self.share else 0
        lengths = [len(example.ids) - prefix for example in examples]
        groups = plan_micro_batches(lengths, 1 if self.single else max(budget - prefix, 1), self.padded)
        return [self.batch([examples[row] for row in group]) for group in groups]


def flatten(examples: Sequence[Example], share: bool = False) -> Batch:
    """One batch: int64 `input_ids` and `position_ids` (1, T), bool `keep` (1, T), int64 `targets` (N,).

    `keep` marks the positions whose next token is learned, `targets` are those N tokens. The first `prefix` tokens
    belong to every row (0 unless `share`); `slots` is where each token after them stands in a grid of `rows` by
    `width`, row after row. `tokens` counts the tokens of the rows, each with its prefix.
    """
    prefix = shared_prefix(examples) if share else 0
    lengths = [len(example.ids) - prefix for example in examples]
    width = max(lengths)
    own = np.concatenate([np.arange(length) for length in lengths])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    ids = np.concatenate([examples[0].ids[:prefix], *(example.ids[prefix:] for example in examples)])
    labels = np.concatenate([examples[0].labels[:prefix], *(example.labels[prefix:] for example in examples)])
    following = np.append(labels[1:], IGNORED)
    return {
        "input_ids": torch.from_numpy(ids.astype(np.int64))[None],
        "position_ids": torch.from_numpy(np.concatenate([np.arange(prefix), own + prefix]))[None],
        "slots": torch.from_numpy(rows * width + own),
        "rows": len(lengths),
        "width": width,
        "prefix": prefix,
        "tokens": sum(lengths) + prefix * len(lengths),
        "keep": torch.from_numpy(following != IGNORED)[None],
        "targets": torch.from_numpy(following[following != IGNORED].astype(np.int64)),
    }


def pad(examples: Sequence[Example]) -> Batch:
    """One right-padded batch: `input_ids`, `attention_mask` and `keep` (rows, width), and the rest as in `flatten`."""
    width = max(len(example.ids) for example in examples)
    ids, mask, keep = (np.zeros((len(examples), width), kind) for kind in (np.int64, np.int64, np.bool_))
    for row, example in enumerate(examples):
        length = len(example.ids)
        ids[row, :length], mask[row, :length] = example.ids, 1
        keep[row, : length - 1] = example.labels[1:] != IGNORED
    targets = np.concatenate([example.labels[1:][example.labels[1:] != IGNORED] for example in examples])
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "keep": torch.from_numpy(keep),
        "targets": torch.from_numpy(targets.astype(np.int64)),
        "rows": len(examples),
        "width": width,
        "prefix": 0,
        "tokens": int(mask.sum()),
    }


def shared_prefix(examples: Sequence[Example]) -> int:
    """How many first tokens all rows have in common, leaving to each row what it predicts learned tokens from."""
    if len(examples) < 2:
        return 0
    limit = min(int(np.argmax(example.labels != IGNORED)) for example in examples) - 1
    first = examples[0].ids[: max(limit, 0)]
    alike = np.all([example.ids[: len(first)] == first for example in examples], axis=0)
    return len(first) if alike.all() else int(np.argmin(alike))
