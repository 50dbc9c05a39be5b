"""The LoRA ops against a loop in float64, and that no row ever feels another's adapter."""

from __future__ import annotations

import logging
import time

import pytest
import torch

from adreg.serve.general.calibration import ADAPTERS, ROWS, calibrate
from adreg.serve.general.ops import MASKED, Op, Run, Runs, available

BATCHES = {
    "one adapter": ((2, 0, 5),),
    "every adapter": ((0, 0, 1), (1, 1, 2), (2, 2, 3), (3, 3, 4)),
    "some, unevenly": ((0, 0, 1), (3, 1, 20)),
}


def runs_of(batch: str) -> Runs:
    return Runs(tuple(Run(*run) for run in BATCHES[batch]), torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("op", available(), ids=lambda op: op.name)
def test_every_op_is_the_loop_in_float64(op: Op, batch: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    runs = runs_of(batch)
    x, a = torch.randn(runs.rows, 64, dtype=dtype), torch.randn(4, 24, 64, dtype=dtype) / 8
    b, before = torch.randn(4, 8, 40, dtype=dtype), torch.randn(runs.rows, 40, dtype=dtype)
    expected = before.double()
    for run in runs.runs:
        rows = slice(run.start, run.stop)
        expected[rows] += x[rows].double() @ a[run.index].double().T[:, 8:16] @ b[run.index].double()
    out = before.clone()
    op.expand(out, op.shrink(x, a, runs)[..., 8:16], b, runs)
    largest = expected.abs().max()
    assert (out - expected).abs().max() <= largest * {torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]


@pytest.mark.parametrize("op", available(), ids=lambda op: op.name)
def test_an_adapter_that_overflows_poisons_its_own_rows_only(op: Op) -> None:
    runs = runs_of("every adapter")
    x, a, b = torch.ones(4, 8), torch.ones(4, 8, 8), torch.ones(4, 8, 8)
    a[1] = 3e38
    out = torch.zeros(4, 8)
    op.expand(out, op.shrink(x, a, runs), b, runs)
    assert out.isfinite().all(1).tolist() == [True, False, True, True]


def test_calibration_takes_less_than_a_second_and_says_what_it_chose(caplog: pytest.LogCaptureFixture) -> None:
    started = time.process_time()
    with caplog.at_level(logging.INFO, "adreg.serve"):
        calibration = calibrate(576, torch.bfloat16, torch.device("cpu"))
    assert time.process_time() - started < 1
    assert len(calibration.table) == len(ROWS) * len(ADAPTERS)
    assert "256 rows x 1 adapters" in caplog.text
    many = Runs(tuple(Run(index, index, index + 1) for index in range(12)), torch.device("cpu"))
    assert calibration.choose(many) is calibration.table[1, 16]
    assert MASKED in available()
