"""Several processes write at once while a clean-up without grace and a check run in a loop beside them."""

from __future__ import annotations

import json
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from adreg.errors import ConflictError
from adreg.references import parse_reference
from adreg.registry.aliases import Move
from adreg.registry.store import database
from adreg.registry.upkeep.fsck import fsck
from adreg.registry.upkeep.gc import run_gc
from adreg.registry.upkeep.gcplan import GcPolicy, plan_gc
from adreg.registry.upkeep.reading import ReadData
from tests.registry.soak.apart import started
from tests.registry.soak.builders import opened, push, small_adapter
from tests.registry.soak.oracle import debris, faults, state
from tests.registry.soak.scale import amount

WRITERS, PUSHES = amount(8, 3), amount(50, 3)
JOURNALS = ["delete", "wal"]


def write(home: Path, sources: Path, writer: int) -> str:
    """Push new content again and again, to the same name and to one's own, and move the alias that everybody moves."""
    pushed, moved = [], Counter[str]()
    for number in range(PUSHES):
        name = "shared" if number % 2 else f"own{writer}"
        folder = small_adapter(sources / f"{writer}-{number}", writer * 1000 + number, f"{writer} {number}")
        reference = push(home, folder, name)
        pushed.append(reference)
        if name == "shared":
            moved["moved" if move(home, reference) else "refused"] += 1
    return json.dumps({"pushed": pushed, **moved})


def move(home: Path, reference: str) -> bool:
    """Compare and swap; False when somebody else was faster."""
    with opened(home) as registry:
        now = [alias.number for alias in registry.adapters.aliases("shared")]
        try:
            registry.adapters.set_alias(parse_reference(reference), "prod", Move(expect=now[0] if now else None))
        except ConflictError as error:
            assert "means version" in str(error) or "does not exist" in str(error), error
            return False
    return True


def clean(home: Path, stop: Path) -> int:
    count = 0
    while not stop.exists():
        with opened(home) as registry:
            run_gc(registry, plan_gc(registry, GcPolicy(grace=0, purge_after=0, empty_trash=True)))
        count += 1
    return count


def check(home: Path, stop: Path) -> int:
    count = 0
    while not stop.exists():
        with opened(home) as registry:
            assert fsck(registry, ReadData()).problems == ()
        count += 1
        time.sleep(0.05)
    return count


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("journal", JOURNALS)
def test_writers_a_clean_up_and_a_check_at_once(tmp_path, monkeypatch, journal):
    monkeypatch.setattr(database, "safe_journal", lambda path: journal)
    home, stop = tmp_path / "home", tmp_path / "stop"
    push(home, small_adapter(tmp_path / "first", 1_000_000), "first")
    writers = [started(partial(write, home, tmp_path / "sources", writer)) for writer in range(WRITERS)]
    cleaner, checker = started(partial(clean, home, stop)), started(partial(check, home, stop))
    try:
        told = [json.loads(writer.answer()) for writer in writers]
    finally:
        stop.touch()
    cleaned, checked = cleaner.answer(), checker.answer()
    assert faults(home) == [] and debris(home) == []
    found = state(home)
    acknowledged = sorted(["first:1", *(reference for each in told for reference in each["pushed"])])
    there = sorted(f"{name}:{number}" for name, (_, versions, _) in found.adapters.items() for number in versions)
    assert acknowledged == there and len(there) == WRITERS * PUSHES + 1
    moves = [json.loads(detail) for _, verb, detail in found.history if verb == "alias"]
    assert len(moves) == sum(each.get("moved", 0) for each in told)
    assert [each["was"] for each in moves] == [None, *(each["version"] for each in moves[:-1])]
    print(
        f"{journal} journal: {WRITERS} writers, {len(there)} pushes, {len(moves)} alias moves, "
        f"{sum(each.get('refused', 0) for each in told)} moves refused, beside {cleaned} clean-ups and {checked} checks"
    )


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_registry_is_made_once_however_many_open_it_first(tmp_path, monkeypatch, journal):
    monkeypatch.setattr(database, "safe_journal", lambda path: journal)
    rounds = amount(20, 1)
    folders = [small_adapter(tmp_path / f"source{number}", number) for number in range(8)]
    for index in range(rounds):
        home = tmp_path / f"home{index}"
        children = [started(partial(push, home, folder, "first")) for folder in folders]
        assert sorted(child.answer() for child in children) == [f"first:{number}" for number in range(1, 9)]
        assert faults(home) == [] and debris(home) == []
    print(f"{journal} journal: {rounds} registries made by 8 processes at once")
