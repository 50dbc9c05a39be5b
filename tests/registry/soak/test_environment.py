"""Unusual surroundings: nothing may be written, nobody else may read, the clock runs backwards, the home is a link, signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

from adreg.cli.errors import guarded
from adreg.errors import StorageError
from adreg.references import parse_reference
from adreg.registry.push import plan_push
from adreg.registry.store.database import transaction
from adreg.registry.upkeep.backup import backup
from adreg.registry.upkeep.fsck import fsck
from adreg.registry.upkeep.gc import run_gc
from adreg.registry.upkeep.gcplan import GcPolicy, plan_gc
from adreg.registry.upkeep.reading import ReadData
from adreg.registry.upkeep.restore import restore_backup
from tests.registry.soak.apart import apart, read_only, small_disk
from tests.registry.soak.builders import furnished, opened, push, set_alias, small_adapter
from tests.registry.soak.judging import judged, still_works
from tests.registry.soak.operations import OPERATIONS, Place
from tests.registry.soak.oracle import blob_path, debris, faults, state
from tests.registry.soak.scale import ALL, amount, chosen
from tests.registry.soak.tracing import can_trace, traced

SIGNALS = {signal.SIGINT: "SystemExit: 130", signal.SIGTERM: "SystemExit: 143"}
CHANGING = ("database.py", "leases.py", "intake.py", "seal.py", "contextlib.py")
PUSH = next(operation for operation in OPERATIONS if operation.name == "push")


@pytest.fixture
def place(tmp_path) -> Place:
    return PUSH.place(tmp_path / "place")


def on_a_read_only_disk(place: Place, disk: Path) -> str:
    with small_disk(disk):
        home = shutil.copytree(place.home, disk / "home")
        read_only(disk)
        with opened(home) as registry:
            version = registry.adapters.resolve(parse_reference("voice:prod"))
            registry.adapters.pull(version, place.out)
            assert fsck(registry, ReadData()).problems == ()
            for change in (
                lambda: registry.adapters.push(plan_push(place.sources / "new"), "voice", None, None),
                lambda: registry.adapters.set_alias(parse_reference("voice:1"), "prod"),
                lambda: backup(registry, disk / "backup"),
            ):
                with pytest.raises(StorageError):
                    change()
        assert state(home) == state(place.home)
    return version.reference


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_read_only_registry_is_read_and_refuses_changes_in_words(place, tmp_path):
    (tmp_path / "disk").mkdir()
    assert apart(partial(on_a_read_only_disk, place, tmp_path / "disk")) == "voice:2"
    assert len(list(place.out.iterdir())) == 3


def test_what_others_may_not_read_by_default_works(place):
    def work() -> str:
        os.umask(0o077)
        return push(place.home, place.sources / "new", "voice")

    assert apart(work) == "voice:4" and faults(place.home) == []
    still_works(place)


def test_the_plainest_locale_is_no_hindrance(place):
    (place.sources / "new" / "README.md").write_text("Grüße, 東京", encoding="utf-8")
    code = "import sys; from adreg.cli.app import main; main()"
    environment = {"ADREG_HOME": str(place.home), "LC_ALL": "C", "PYTHONUTF8": "0", "PATH": os.environ["PATH"]}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    for words in (["push", str(place.sources / "new"), "voice"], ["show", "voice"], ["ls", "--json"]):
        ran = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
    assert faults(place.home) == []


def test_a_clock_that_was_set_back_loses_nothing(place):
    ahead = time.time() + 3600
    stray = place.home / "blobs" / "sha256" / "00" / ("0" * 64)
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"stray")
    for path in (place.home / "blobs").rglob("*"):
        os.utime(path, (ahead, ahead))
    before = state(place.home)
    with opened(place.home) as registry:
        with transaction(registry.db):
            registry.db.execute("insert into lease values (null, 'elsewhere:1', 'push', ?, ?)", [ahead, ahead + 86400])
        plan = plan_gc(registry, GcPolicy(grace=0))
        run_gc(registry, plan)
    assert plan.blobs == () and plan.waiting == 1 and stray.exists()
    assert state(place.home) == before and faults(place.home) == []


def test_a_home_that_is_a_link_is_a_home(place, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(place.home)
    push(link, place.sources / "new", "voice")
    set_alias(link, "voice:4", "prod")
    with opened(link) as registry:
        assert fsck(registry, ReadData()).problems == ()
        run_gc(registry, plan_gc(registry, GcPolicy(grace=0, purge_after=0, empty_trash=True), now=time.time() + 10))
        backup(registry, tmp_path / "saved.tar")
    saved = state(place.home)
    assert faults(place.home) == [] and debris(place.home) == [] and saved.adapters["voice"][2]["prod"] == 4
    set_alias(link, "voice:1", "prod")
    restore_backup(tmp_path / "saved.tar", link, replace=True)
    assert state(link) == saved and faults(link) == []


def command(place: Place) -> None:
    def run() -> None:
        PUSH.work(place)

    guarded(run)


@pytest.mark.skipif(not can_trace(), reason="processes may not be traced here")
@pytest.mark.parametrize("by", SIGNALS, ids=lambda by: by.name)
def test_a_push_that_is_interrupted_ends_with_its_code_and_leaves_nothing(by, place, tmp_path):
    before, trial = PUSH.seen(place), place.again(tmp_path / "trial")
    whole = traced(partial(command, trial))
    after, counts = PUSH.seen(trial), Counter[str]()
    for step in chosen(len(whole.steps) - 1, amount(ALL, 4), by):
        trial = place.again(tmp_path / "trial")
        outcome = traced(partial(command, trial), kill_at=step, by=by)
        assert outcome.acknowledged or outcome.error == SIGNALS[by], outcome.error
        counts[judged(PUSH, trial, outcome.acknowledged, before, after)] += 1
        assert debris(trial.home) == []
    still_works(trial)
    print(f"push, {by.name} before {counts.total()} of {len(whole.steps)} steps: {dict(counts)}, nothing left")


@dataclass
class Interrupt:
    """Counts the moments of the code that changes a registry (lines, calls, returns); one is interrupted as by a signal."""

    at: int = ALL
    count: int = 0

    def __call__(self, frame: FrameType, _event: str, _argument: object) -> Interrupt | None:
        if Path(frame.f_code.co_filename).name not in CHANGING:
            return None
        self.count += 1
        if self.count > self.at:
            sys.settrace(None)
            raise KeyboardInterrupt
        return self


def pushed(place: Place, interrupt: Interrupt) -> bool:
    """Push; whether that was not interrupted."""
    sys.settrace(interrupt)
    try:
        PUSH.work(place)
    except KeyboardInterrupt:
        return False
    finally:
        sys.settrace(None)
    return True


def test_a_push_that_is_interrupted_between_any_two_lines_is_made_or_undone(place, tmp_path):
    before, trial, whole = PUSH.seen(place), place.again(tmp_path / "trial"), Interrupt()
    assert pushed(trial, whole)
    after, counts = PUSH.seen(trial), Counter[str]()
    for at in chosen(whole.count, amount(ALL, 10), "interrupt"):
        trial = place.again(tmp_path / "trial")
        assert not pushed(trial, Interrupt(at)), at
        counts[judged(PUSH, trial, False, before, after)] += 1
        still_works(trial)
    print(f"push, interrupted at {counts.total()} of {whole.count} moments: {dict(counts)}")


def test_a_blob_that_is_there_but_damaged_is_healed_by_the_next_push(tmp_path):
    home = furnished(tmp_path / "home", tmp_path / "sources")
    digest = state(home).adapters["voice"][1][1][1][0][1]
    path = blob_path(home, digest)
    path.unlink()
    path.write_bytes(b"damaged")
    assert faults(home) == [f"{digest} is damaged"]
    push(home, small_adapter(tmp_path / "again", 1, "number 1"), "other")
    assert faults(home) == []


def test_what_a_killed_first_push_left_is_cleaned_up(tmp_path):
    home = tmp_path / "home"
    with opened(home) as registry:
        registry.adapters.all()
        stray = home / "blobs" / "sha256" / "00" / ("0" * 64)
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"stray")
        run_gc(registry, plan_gc(registry, GcPolicy(grace=0, empty_trash=True), now=time.time() + 10))
    assert not stray.exists() and debris(home) == []
