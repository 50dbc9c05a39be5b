"""Padding-free batches: the rows of a step, laid end to end. Knows tensors, not models.

Rows are flattened to one [1, T] sequence with restarting positions and without an attention mask. The first label of
every row is -100, so no label crosses from one row to the next. Where attention can do it, the tokens that all rows
begin with, such as a system prompt, are laid down and computed once.
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


def micro_batches(examples: Sequence[Example], budget: int, share: bool = False) -> list[Batch]:
    """The examples of one step as flattened batches of at most `budget` tokens."""
    lengths = [len(example.ids) for example in examples]
    return [flatten([examples[row] for row in group], share) for group in plan_micro_batches(lengths, budget)]


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


def shared_prefix(examples: Sequence[Example]) -> int:
    """How many first tokens all rows have in common, leaving to each row what it predicts learned tokens from."""
    if len(examples) < 2:
        return 0
    limit = min(int(np.argmax(example.labels != IGNORED)) for example in examples) - 1
    first = examples[0].ids[: max(limit, 0)]
    alike = np.all([example.ids[: len(first)] == first for example in examples], axis=0)
    return len(first) if alike.all() else int(np.argmin(alike))


def token_counts(batches: Sequence[Batch]) -> tuple[int, int]:
    """The tokens of all rows in `batches`, and the learned ones."""
    return sum(batch["tokens"] for batch in batches), sum(batch["targets"].numel() for batch in batches)
