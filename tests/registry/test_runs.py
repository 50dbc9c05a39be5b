"""Runs while they last, when they end, when their process is killed, and when they come with an adapter from elsewhere."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from typing import Any

import pytest

from adreg.errors import ConflictError, NotFoundError
from adreg.registry.runjournal import Journal, is_alive, journal_path, read_journal
from adreg.registry.runmetrics import Metrics, metrics_of, pack, unpack
from adreg.registry.store.database import transaction
from adreg.registry.upkeep.backup import backup
from adreg.registry.upkeep.fsck import fsck
from adreg.registry.upkeep.restore import restore_backup
from tests.registry.processes import spawn, wait
from tests.registry.soak.builders import opened

ID = "6a0000000001"
RUN: dict[str, Any] = {
    "id": ID,
    "started": "2026-11-21T10:00:00+00:00",
    "outcome": "running",
    "base": {},
    "data": [],
    "eval": {},
}


def step(number, loss=1.0):
    return [number, loss, 1e-3, 100.0, 0.5, 10**9, None]


def test_a_run_is_there_from_its_first_moment_and_every_step_at_once(home):
    with opened(home) as registry, opened(home) as other:
        recorder = registry.runs.recorder()
        recorder.began(RUN)
        assert other.runs.get(ID)["outcome"] == "running"
        recorder.step(step(1, 3.0))
        recorder.step(step(2, float("nan")))
        recorder.evaluated([2, 2.5, True])
        seen = other.runs.get("6a")
        assert seen["losses"] == [step(1, 3.0), step(2, None)] and seen["evaluations"] == [[2, 2.5, True]]
        assert other.runs.all()[0]["last"] == step(2, None)
        recorder.ended(RUN | {"outcome": "finished", "eval": {"adapter": 2.5}})
        (listed,) = other.runs.all()
        assert listed["outcome"] == "finished" and listed["last"] == step(2, None) and "losses" not in listed
        assert other.runs.get(ID)["losses"] == seen["losses"]
        assert not journal_path(home, ID).exists()
        assert fsck(registry).problems == ()


def test_a_killed_run_is_lost_keeps_its_steps_and_can_go_on(home):
    def train():
        with opened(home) as registry:
            recorder = registry.runs.recorder()
            recorder.began(RUN)
            for number in range(1, 50):
                recorder.step(step(number))
            time.sleep(60)

    child = spawn(train)
    deadline = time.monotonic() + 20
    with opened(home) as registry:
        while len(read_journal(journal_path(home, ID)).losses) < 49:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert registry.runs.all()[0]["outcome"] == "running"
        with pytest.raises(ConflictError, match="trained by another process"):
            registry.runs.recorder().began(RUN)
        with pytest.raises(ConflictError, match="is running"):
            registry.runs.remove(ID)
        os.kill(child, signal.SIGKILL)
        wait(child)
        (lost,) = registry.runs.all()
        assert lost["outcome"] == "lost" and lost["last"] == step(49)
        assert registry.runs.resumable() == []
        (registry.runs.folder(ID) / "checkpoint-40").mkdir()
        assert [run["id"] for run in registry.runs.resumable()] == [ID]
        recorder = registry.runs.recorder()
        recorder.began(RUN)
        assert registry.runs.all()[0]["outcome"] == "running"
        recorder.step(step(41, 0.5))
        recorder.ended(RUN | {"outcome": "interrupted"})
        assert [entry[0] for entry in registry.runs.get("last")["losses"]] == list(range(1, 42))
        assert registry.runs.get("last")["losses"][-1] == step(41, 0.5)


def test_resumed_again_after_it_ended_the_steps_before_stay(home):
    with opened(home) as registry:
        for begin, outcome in ((1, "interrupted"), (4, "finished")):
            recorder = registry.runs.recorder()
            recorder.began(RUN)
            for number in range(begin, begin + 5):
                recorder.step(step(number, float(begin)))
                recorder.evaluated([number, 1.0, False])
            recorder.ended(RUN | {"outcome": outcome})
        record = registry.runs.get(ID)
        assert [entry[:2] for entry in record["losses"]] == [[n, 1.0] for n in (1, 2, 3)] + [[n, 4.0] for n in range(4, 9)]
        assert [entry[0] for entry in record["evaluations"]] == list(range(1, 9))


def test_a_line_cut_off_by_a_crash_and_what_is_no_metric_are_left_out(home):
    path = journal_path(home, ID)
    journal = Journal(path)
    journal.append("losses", step(1))
    journal.close()
    path.write_text(path.read_text() + '["losses",2,"x",3]\n["other",3,1.0]\n7\n["losses",2,0.5,1.0]\n["losses",3,0.4')
    assert read_journal(path).losses in ((step(1), [2, 0.5, 1.0]), ())
    assert not is_alive(path)


def test_a_step_costs_far_less_than_a_millisecond(home):
    journal = Journal(journal_path(home, ID))
    started = time.perf_counter()
    for number in range(2000):
        journal.append("losses", step(number))
    journal.close()
    assert (time.perf_counter() - started) / 2000 < 5e-4


def test_metrics_survive_packing_and_nothing_else_does():
    metrics = Metrics((step(1), step(2)), ([2, 0.5, True],))
    assert unpack(pack(metrics)) == metrics
    for packed in (b"", b"no zlib", pack(metrics)[:-3], pack(metrics)[:20]):
        with pytest.raises(ValueError, match="metrics"):
            unpack(packed)
    for losses in ([[2, 1.0], [1, 1.0]], [["1", 1.0]], [[1]], [[1, "a"]], {"a": 1}, [[True, 1.0]], [[1, 1.0, [2]]]):
        assert metrics_of({"losses": losses}) is None


def test_odd_steps_of_a_foreign_record_do_no_harm(home):
    with opened(home) as registry:
        for place, losses in enumerate(([["a", {}]], [[1, 2.0]], [{"loss": 1}], [[1, 1.0], "x"])):
            registry.runs.add(RUN | {"id": f"foreign-{place}", "losses": losses, "outcome": "finished"})
        assert {run["id"]: run["last"] for run in registry.runs.all()} == {
            "foreign-0": None, "foreign-1": [1, 2.0], "foreign-2": None, "foreign-3": None,
        }  # fmt: skip
        assert registry.runs.get("foreign-0")["losses"] == [["a", {}]]
        assert fsck(registry).problems == ()


def test_fsck_finds_damaged_steps_and_a_backup_brings_them_back(home, tmp_path):
    with opened(home) as registry:
        registry.runs.add(RUN | {"outcome": "finished", "losses": [step(1), step(2)]})
        backup(registry, tmp_path / "all.tar")
        with transaction(registry.db):
            registry.db.execute("update run_metric set steps = 3")
        assert "holds 2 steps, not the 3 that its row says" in fsck(registry).problems[0].message
    restore_backup(tmp_path / "all.tar", tmp_path / "again")
    with opened(tmp_path / "again") as registry:
        assert registry.runs.get(ID)["losses"] == [step(1), step(2)]


def test_a_removed_run_is_gone_whole(home):
    with opened(home) as registry:
        registry.runs.add(RUN | {"outcome": "finished", "losses": [step(1)]})
        (registry.runs.folder(ID) / "checkpoint-1").mkdir(parents=True)
        registry.runs.remove("6a")
        assert registry.runs.all() == [] and not registry.runs.folder(ID).exists()
        assert registry.db.execute("select count(*) from run_metric").fetchone() == (0,)
        with pytest.raises(NotFoundError):
            registry.runs.get("6a")


def test_runs_of_the_schema_before_are_read_as_they_are(home):
    with opened(home) as registry:
        registry.runs.add(RUN | {"outcome": "finished"})
        path = registry.settings.database
        record = json.dumps(RUN | {"outcome": "finished", "losses": [step(1)]})
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("update run set record = ?", [record])
        plain.commit()
    path.with_name(path.name + ".seal").unlink()
    with opened(home) as registry:
        assert registry.runs.all()[0]["last"] == step(1)
        assert registry.runs.get("6a")["losses"] == [step(1)]
