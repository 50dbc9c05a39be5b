"""Padding-free batches: the rows of a step, laid end to end. Knows tensors, not models.

Rows are flattened to one [1, T] sequence with restarting positions and without an attention mask. The first label of
every row is -100, so no label crosses from one row to the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from adreg.train.encode import IGNORED, Example

Batch = dict[str, Any]


def plan_micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split rows of `lengths` tokens into groups of at most `budget` tokens and about equal size, longest rows first.

    A row longer than the budget gets a group of its own. Every row is in exactly one group.
    """
    target = sum(lengths) / max(math.ceil(sum(lengths) / budget), 1)
    groups: list[list[int]] = []
    filled = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not groups or filled >= target or filled + lengths[row] > budget:
            groups.append([])
            filled = 0
        groups[-1].append(row)
        filled += lengths[row]
    return groups


def micro_batches(examples: Sequence[Example], budget: int) -> list[Batch]:
    """The examples of one step as flattened batches of at most `budget` tokens."""
    lengths = [len(example.ids) for example in examples]
    return [flatten([examples[row] for row in group]) for group in plan_micro_batches(lengths, budget)]


def flatten(examples: Sequence[Example]) -> Batch:
    """One batch: int64 `input_ids`, `position_ids` and `slots` (1, T), bool `keep` (1, T), int64 `targets` (N,).

    `keep` marks the positions whose next token is learned, `targets` are those N tokens. `slots` is where each token
    stands in a grid of `rows` by `width`, row after row.
    """
    lengths = [len(example.ids) for example in examples]
    width = max(lengths)
    ids = np.concatenate([example.ids for example in examples])
    labels = np.concatenate([example.labels for example in examples])
    positions = np.concatenate([np.arange(length) for length in lengths])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    following = np.append(labels[1:], IGNORED)
    return {
        "input_ids": torch.from_numpy(ids.astype(np.int64))[None],
        "position_ids": torch.from_numpy(positions)[None],
        "slots": torch.from_numpy(rows * width + positions),
        "rows": len(lengths),
        "width": width,
        "keep": torch.from_numpy(following != IGNORED)[None],
        "targets": torch.from_numpy(following[following != IGNORED].astype(np.int64)),
    }


def token_counts(batches: Sequence[Batch]) -> tuple[int, int]:
    """All tokens of `batches`, and the learned ones."""
    return sum(batch["input_ids"].numel() for batch in batches), sum(batch["targets"].numel() for batch in batches)
