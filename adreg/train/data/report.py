"""What became of a file of rows, in numbers. Plain data that JSON holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DataReport:
    """Of `rows` (or pairs), `used` are left; `dropped` says why the others are not. Duplicates are used.

    `changed` counts rows that were trimmed, split or cut, `notes` what is odd about the texts. `complete` examples, of
    `examples`, end with their stop token and learn it. `lengths` are pairs of a number of tokens and how many examples have
    that many at most, and more than the number before. `asked_alike` is false where the template puts something else before an
    answer when it is asked for than when it is there, such as a <think>.
    """

    path: str
    sha256: str
    form: str
    rows: int
    used: int
    dropped: dict[str, int]
    duplicates: int
    trained_tokens: int
    total_tokens: int
    longest: int
    kind: str = "jsonl"
    mapping: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    template: str = ""
    changed: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    examples: int = 0
    complete: int = 0
    lengths: tuple[tuple[int, int], ...] = ()
    asked_alike: bool = True
    weight: float = 1.0


def histogram(lengths: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """How many of `lengths` are at most each power of two (from 8) and more than the one before, up to the largest."""
    if not len(lengths):
        return ()
    bounds = 2 ** np.maximum(np.ceil(np.log2(np.maximum(lengths, 1))), 3).astype(np.int64)
    found = np.arange(int(np.log2(bounds.min())), int(np.log2(bounds.max())) + 1)
    return tuple((int(2**power), int(np.count_nonzero(bounds == 2**power))) for power in found)


def dropped_in_words(reports: Sequence[DataReport]) -> str:
    """Why rows of `reports` are not used, file by file."""
    said = [f"{one.path}: {', '.join(f'{count} {why}' for why, count in one.dropped.items()) or 'no rows'}" for one in reports]
    return "; ".join(said)
