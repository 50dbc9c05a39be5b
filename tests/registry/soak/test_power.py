"""What a power failure may take is only what was not synced: the order of writes, syncs and renames is looked at."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from adreg.registry.store import database
from tests.registry.soak.operations import Operation, Place, some
from tests.registry.soak.tracing import can_trace, traced

WRITES, SYNCS = ("write", "writev", "pwrite", "ftruncate"), ("fsync", "fdatasync")
Calls = list[tuple[str, tuple[str, ...]]]

pytestmark = pytest.mark.skipif(not can_trace(), reason="processes may not be traced here")


def calls_of(operation: Operation, place: Place) -> Calls:
    outcome = traced(partial(operation.work, place))
    assert outcome.acknowledged, outcome.error
    return list(zip(outcome.steps, outcome.files, strict=True))


def last(calls: Calls, names: tuple[str, ...], file: str) -> int:
    """Where one of `names` was last done to `file`; -1 for never."""
    return max((index for index, (name, files) in enumerate(calls) if name in names and files[:1] == (file,)), default=-1)


def unsynced_names(calls: Calls) -> list[str]:
    """Files that got a name while bytes of theirs were not on the disk."""
    found = []
    for index, (name, files) in enumerate(calls):
        if name == "rename":
            before = calls[:index]
            written = {which[0] for what, which in before if what in WRITES and f"{which[0]}/".startswith(f"{files[0]}/")}
            found += [file for file in written if last(before, WRITES, file) > last(before, SYNCS, file)]
    return found


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("operation", some("push", "backup"))
def test_a_file_gets_its_name_when_its_bytes_are_on_the_disk(operation, journal, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "safe_journal", lambda path: journal)
    calls = calls_of(operation, operation.place(tmp_path))
    if "rename" not in [name for name, _ in calls]:
        pytest.skip("gives no file its name")
    assert unsynced_names(calls) == []


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("operation", some("push"))
def test_a_blob_has_its_name_for_good_before_a_row_names_it(operation, journal, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "safe_journal", lambda path: journal)
    place = operation.place(tmp_path)
    calls = calls_of(operation, place)
    blobs = [(index, Path(files[1])) for index, (name, files) in enumerate(calls) if name == "rename" and "/blobs/" in files[1]]
    if not blobs:
        pytest.skip("stores no blob")
    for index, blob in blobs:
        named = next(at for at, (name, files) in enumerate(calls) if at > index and name == "pwrite" and "adreg.db" in files[0])
        assert last(calls[:named], SYNCS, str(blob.parent)) > index


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("operation", some("alias"))
def test_the_seal_is_gone_for_good_before_the_database_changes(operation, journal, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "safe_journal", lambda path: journal)
    place = operation.place(tmp_path)
    seal, changed = str(place.home / "adreg.db.seal"), ("adreg.db", "adreg.db-wal")
    calls = calls_of(operation, place)
    looked = 0
    for index, (name, files) in enumerate(calls):
        if name == "pwrite" and Path(files[0]).name in changed:
            before = calls[:index]
            sealed = max((at for at, (what, which) in enumerate(before) if what == "rename" and which[1] == seal), default=-1)
            broken = last(before, ("unlink",), seal)
            if broken > sealed or sealed == -1:
                assert last(before, SYNCS, str(place.home)) > broken >= 0, (index, name, files)
                looked += 1
    if not looked:
        pytest.skip("changes no sealed database")
