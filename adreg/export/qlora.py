"""Adapters whose base was quantised while they were trained (QLoRA), and what merging them into the exact one changes.

Such an adapter learned beside rounded weights. Folded into the exact ones it meets weights it has never seen, and the
difference, `rounding`, can be larger than all that it has learned, `update`. Known by the base's name in its
configuration. Source: QLoRA, arXiv 2305.14314.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adreg.export.changes.source import Source
from adreg.export.fold.folded import Folded
from adreg.formats.dtypes import Float32
from adreg.formats.quantised.bnb import LEVELS
from adreg.formats.quantised.packed import NF4

QUANTISED = re.compile(r"(?i)(bnb[-_.]?4|4[-_.]?bit|nf4|int4|int8|8[-_.]?bit|gptq|awq|fp8)")
BLOCK = 64
TENSORS, ROWS = 8, 64  # a sample that takes milliseconds


@dataclass(frozen=True)
class QuantisedTraining:
    """The adapter `label` was trained on `base`, a quantised model. Relative to the size of the weights, rounding them to
    NF4 moves them by `rounding`, and the adapter by `update` (root mean squares over a sample)."""

    label: str
    base: str
    rounding: float
    update: float


def quantised_trainings(folds: Mapping[str, Folded], sources: Sequence[Source]) -> Iterator[QuantisedTraining]:
    """Those of `sources` that were trained on a quantised base, by its name."""
    for source in sources:
        base = source.adapter.config.raw.get("base_model_name_or_path")
        if isinstance(base, str) and QUANTISED.search(base.rstrip("/").rpartition("/")[2]):
            yield QuantisedTraining(source.label, base, *_shares(folds, source.label))


def _shares(folds: Mapping[str, Folded], label: str) -> tuple[float, float]:
    adapted = [fold for fold in folds.values() if any(update.label == label for update in fold.updates)]
    sums = np.zeros(3)
    for fold in adapted[:: max(len(adapted) // TENSORS, 1)]:
        weights = fold.view.rows(0, min(ROWS, fold.shape[0]))
        values = weights.copy()
        for update in fold.updates:
            values = update.apply(values, 0, len(weights)) if update.label == label else values
        sums += [np.square(part, dtype=np.float64).sum() for part in (weights, nf4(weights) - weights, values - weights)]
    of_weights, of_rounding, of_update = np.sqrt(sums)
    return float(of_rounding / of_weights), float(of_update / of_weights)


def nf4(values: Float32) -> Float32:
    """`values` rounded to NF4 and back: in blocks of 64 of the flat tensor, each by its largest magnitude."""
    flat = np.pad(values.reshape(-1), (0, -values.size % BLOCK)).reshape(-1, BLOCK)
    scales = np.abs(flat).max(axis=1, keepdims=True)
    levels = np.array(LEVELS[NF4], np.float32)
    borders = (levels[1:] + levels[:-1]) / 2
    rounded: Float32 = levels[np.searchsorted(borders, flat / np.where(scales, scales, 1))] * scales
    return rounded.reshape(-1)[: values.size].reshape(values.shape)
