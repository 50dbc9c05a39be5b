"""Every operation is killed before each system call that changes a file, and at random moments too."""

from __future__ import annotations

import random
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from adreg.registry.store import database
from tests.registry.soak.judging import judged, still_works
from tests.registry.soak.operations import Operation, some
from tests.registry.soak.scale import ALL, amount, chosen
from tests.registry.soak.tracing import can_trace, killed_after, traced


def report(title: str, counts: Counter[str], kills: int) -> None:
    print(
        f"{title}: {kills} kills, " + ", ".join(f"{counts[key]} {key}" for key in ("acknowledged", "absent", "part", "whole"))
    )


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not can_trace(), reason="processes may not be traced here")
@pytest.mark.parametrize("operation", some())
def test_a_kill_before_any_system_call_leaves_all_or_nothing(operation, tmp_path):
    kill_everywhere(operation, tmp_path, "delete", amount(ALL, 3))


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not can_trace(), reason="processes may not be traced here")
@pytest.mark.parametrize("operation", some("push", "migrate"))
def test_a_kill_leaves_all_or_nothing_with_a_write_ahead_log_too(operation, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "safe_journal", lambda path: "wal")
    kill_everywhere(operation, tmp_path, "wal", amount(40, 3))


def kill_everywhere(operation: Operation, tmp_path: Path, journal: str, most: int) -> None:
    start = operation.place(tmp_path / "start")
    before = operation.seen(start)
    place = start.again(tmp_path / "trial")
    whole = traced(partial(operation.work, place))
    assert whole.acknowledged, whole.error
    after = operation.seen(place)
    counts: Counter[str] = Counter()
    steps = chosen(len(whole.steps), most, operation.name)
    for step in steps:
        place = start.again(tmp_path / "trial")
        outcome = traced(partial(operation.work, place), kill_at=step)
        assert outcome.killed or outcome.acknowledged, outcome.error
        counts[judged(operation, place, outcome.acknowledged, before, after)] += 1
        counts["acknowledged"] += outcome.acknowledged
        still_works(place)
    report(f"{operation.name} ({journal} journal), before each of {len(whole.steps)} steps", counts, len(steps))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("operation", some("push", "alias", "gc", "sync in"))
def test_a_kill_at_any_moment_leaves_all_or_nothing(operation, tmp_path):
    start = operation.place(tmp_path / "start")
    before = operation.seen(start)
    place = start.again(tmp_path / "trial")
    began = time.monotonic()
    operation.work(place)
    duration, after = time.monotonic() - began, operation.seen(place)
    dice, counts = random.Random(operation.name), Counter[str]()
    kills = amount(30, 2)
    for _ in range(kills):
        place = start.again(tmp_path / "trial")
        outcome = killed_after(partial(operation.work, place), dice.uniform(0, 3 * duration))
        assert outcome.killed or outcome.acknowledged, outcome.error
        counts[judged(operation, place, outcome.acknowledged, before, after)] += 1
        counts["acknowledged"] += outcome.acknowledged
        still_works(place)
    report(f"{operation.name}, at any moment", counts, kills)
