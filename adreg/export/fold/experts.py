"""A LoRA on all experts of a layer at once, whose parameters PEFT stacks: A (experts * rank, in), expert by expert, and
B (out, rank * experts), one column of each expert after the other. Source: peft tuners/lora/layer.py, `ParamWrapper`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from adreg.export.fold.lora import ProductUpdate
from adreg.formats.adapters.adapter import LoraModule
from adreg.formats.dtypes import Float32


@dataclass(frozen=True)
class ExpertsUpdate:
    """The update of a base that stores the experts as one tensor (experts, out, in); its rows are experts."""

    module: LoraModule
    experts: int
    factor: float
    label: str

    def apply(self, values: Float32, start: int, stop: int) -> Float32:
        whole = slice(0, self.module.b.shape[0])
        for expert in range(start, stop):
            a, b = _expert_a(self.module, self.experts, expert), _expert_b(self.module, self.experts, expert, whole)
            values[expert - start] += (b @ a) * np.float32(self.factor)
        return values


def split_updates(
    module: LoraModule, experts: int, parts: int, factor: float, label: str
) -> Iterator[tuple[int, int, ProductUpdate]]:
    """(expert, part, update) for a base that stores each expert's matrix in `parts` tensors, one below the other."""
    height = module.b.shape[0] // parts
    for expert in range(experts):
        for part in range(parts):
            b = partial(_expert_b, module, experts, expert, slice(part * height, (part + 1) * height))
            yield expert, part, ProductUpdate(partial(_expert_a, module, experts, expert), b, factor, label)


def _expert_a(module: LoraModule, experts: int, expert: int) -> Float32:
    rank = module.a.shape[0] // experts
    return module.a.rows(expert * rank, (expert + 1) * rank)


def _expert_b(module: LoraModule, experts: int, expert: int, rows: slice) -> Float32:
    return np.ascontiguousarray(module.b.rows(rows.start, rows.stop)[:, expert::experts])
