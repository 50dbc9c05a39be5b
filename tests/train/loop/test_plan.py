"""Which rows a step takes: every row once an epoch, a function of the seed, and all processes together take all of them."""

from __future__ import annotations

import random

import pytest

from adreg.train.config import LoopSettings
from adreg.train.loop.plan import StepPlan, pack, shares

LENGTHS = [random.Random(3).randint(4, 300) for _ in range(103)]


@pytest.mark.parametrize("packing", [False, True])
def test_each_epoch_takes_every_row_once_in_an_order_of_its_own(packing):
    settings = LoopSettings(epochs=2.5, batch=8, packing=packing, micro_tokens=512)
    plan = StepPlan(len(LENGTHS), settings, LENGTHS)
    epochs = [[plan.rows(epoch * plan.epoch_steps + step) for step in range(plan.epoch_steps)] for epoch in (0, 1, 2)]
    for epoch in epochs:
        assert sorted(row for step in epoch for row in step) == list(range(len(LENGTHS)))
    assert epochs[0] != epochs[1] != epochs[2]
    assert plan.steps == -(-plan.epoch_steps * 5 // 2)
    assert [step for step in range(1, plan.steps + 1) if plan.ends_epoch(step)] == [
        plan.epoch_steps,
        2 * plan.epoch_steps,
        plan.steps,
    ]
    again = StepPlan(len(LENGTHS), settings, LENGTHS)
    assert again.rows(plan.epoch_steps + 2) == epochs[1][2] and plan.rows(0) == epochs[0][0]
    assert StepPlan(len(LENGTHS), settings.model_copy(update={"seed": 1}), LENGTHS).rows(0) != epochs[0][0]


def test_packed_steps_are_nearly_full_and_never_over_the_limit():
    groups = pack(LENGTHS, 512)
    assert max(sum(LENGTHS[row] for row in group) for group in groups) <= 512
    assert len(groups) <= 1.02 * sum(LENGTHS) / 512 + 1
    assert sorted(map(len, pack([600, 700, 5], 512))) == [1, 1, 1]


def test_processes_share_a_step_by_tokens_and_leave_out_nothing():
    parts = shares(LENGTHS, 3)
    assert sorted(row for part in parts for row in part) == list(range(len(LENGTHS)))
    filled = [sum(LENGTHS[row] for row in part) for part in parts]
    assert max(filled) - min(filled) <= max(LENGTHS)
    assert shares([7], 3) == [[0], [], []]
