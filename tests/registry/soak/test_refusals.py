"""The disk refuses one system call, any of them: the operation fails with words, and the registry is what it was."""

from __future__ import annotations

import errno
from collections import Counter
from functools import partial

import pytest

from tests.registry.soak.judging import judged, still_works
from tests.registry.soak.operations import Operation, some
from tests.registry.soak.scale import amount, chosen
from tests.registry.soak.tracing import Outcome, can_refuse, traced

WORDS = ("StorageError: ", "IntegrityError: ", "ConflictError: ", "RemoteError: ")
# done, but whether it outlasts a power failure is what the disk would not say
NAMED_BUT_NOT_SYNCED = (["unlink", "fdatasync"], ["rename", "fsync"], ["link", "fsync"])


def told(operation: Operation, outcome: Outcome, change: str, step: int) -> str:
    """How the operation ended; fails where its words are not true."""
    if outcome.acknowledged:
        return "went on"
    assert outcome.error.startswith(WORDS), (outcome.error, step, outcome.steps[step - 2 : step + 2])
    if change == "whole":
        if operation.in_parts:
            return "failed at the very end"
        assert outcome.steps[step - 1 : step + 1] in NAMED_BUT_NOT_SYNCED, (step, outcome.steps[step - 2 : step + 2])
        return "unconfirmed"
    return {"absent": "failed and changed nothing", "part": "stopped on the way"}[change]


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not can_refuse(), reason="system calls cannot be refused here")
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("operation", some("push", "alias", "gc", "backup"))
def test_a_refused_system_call_changes_nothing_or_does_no_harm(operation, code, tmp_path):
    start = operation.place(tmp_path / "start")
    before = operation.seen(start)
    place = start.again(tmp_path / "trial")
    whole = traced(partial(operation.work, place))
    after, counts = operation.seen(place), Counter[str]()
    for step in chosen(len(whole.steps) - 1, amount(150, 2), (operation.name, code)):  # the last one is the answer
        place = start.again(tmp_path / "trial")
        outcome = traced(partial(operation.work, place), refuse_at=step, error=code)
        change = judged(operation, place, outcome.acknowledged, before, after)
        counts[told(operation, outcome, change, step)] += 1
        still_works(place)
    print(f"{operation.name}, {errno.errorcode[code]} from {counts.total()} of {len(whole.steps) - 1} calls: {dict(counts)}")
