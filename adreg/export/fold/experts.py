"""A LoRA on all experts of a layer at once, whose parameters PEFT stacks: A (experts * rank, in), expert by expert, and
B (out, rank * experts), one column of each expert after the other. Source: peft tuners/lora/layer.py, `ParamWrapper`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

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
        for expert in range(start, stop):
            b = self._b[:, expert :: self.experts]
            values[expert - start] += (b @ _expert_a(self.module, self.experts, expert)) * np.float32(self.factor)
        return values

    @cached_property
    def _b(self) -> Float32:
        return self.module.b.float32()


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
