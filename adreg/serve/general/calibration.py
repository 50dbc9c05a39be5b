"""Which LoRA op is quickest here: a table by rows an adapter and by adapters, measured in a fraction of a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adreg.serve.general.ops import SEGMENTS, Op, Run, Runs, available

log = logging.getLogger("adreg.serve")
ROWS = (1, 16, 256)
ADAPTERS = (1, 4, 16)
RANK = 8
TRIES = 4
MOST_ROWS = 512


@dataclass(frozen=True)
class Calibration:
    """The quickest op by (rows an adapter, adapters)."""

    table: Mapping[tuple[int, int], Op]

    def choose(self, runs: Runs) -> Op:
        """The op for `runs`, by the measured point that is nearest in proportion."""
        adapters = len(runs.runs)
        return self.table[_nearest(runs.rows / adapters, ROWS), _nearest(adapters, ADAPTERS)]


def _nearest(value: float, points: tuple[int, ...]) -> int:
    return min(points, key=lambda point: max(point / value, value / point))


FIXED = Calibration({(rows, adapters): SEGMENTS for rows in ROWS for adapters in ADAPTERS})
"""Always the reference."""


def calibrate(width: int, dtype: torch.dtype, device: torch.device) -> Calibration:
    """Measure every op on layers of `width` to `width` at rank 8; logs the table."""
    with torch.inference_mode():
        bench = _Bench(*(torch.randn(*size, device=device).to(dtype) for size in _sizes(width)))
        table = {(rows, adapters): bench.quickest(rows, adapters) for rows in ROWS for adapters in ADAPTERS}
    log.info("LoRA ops: %s", ", ".join(f"{r} rows x {n} adapters {op.name}" for (r, n), op in table.items()))
    return Calibration(table)


def _sizes(width: int) -> tuple[tuple[int, ...], ...]:
    return (MOST_ROWS, width), (max(ADAPTERS), RANK, width), (max(ADAPTERS), RANK, width)


@dataclass(frozen=True)
class _Bench:
    x: Tensor
    a: Tensor
    b: Tensor

    def quickest(self, rows: int, adapters: int) -> Op:
        each = min(rows, len(self.x) // adapters)
        runs = Runs(tuple(Run(index, index * each, (index + 1) * each) for index in range(adapters)), self.x.device)
        return min(available(), key=lambda op: self._seconds(op, runs))

    def _seconds(self, op: Op, runs: Runs) -> float:
        x, out = self.x[: runs.rows], torch.zeros_like(self.x[: runs.rows])
        return min(self._once(op, x, out, runs) for _ in range(TRIES))

    def _once(self, op: Op, x: Tensor, out: Tensor, runs: Runs) -> float:
        start = time.perf_counter()
        op.expand(out, op.shrink(x, self.a, runs), self.b, runs)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        return time.perf_counter() - start
