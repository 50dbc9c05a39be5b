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
    """Files that got a name while bytes of theirs were not on the disk; one that is gone again has none to lose."""
    found = []
    for index, (name, files) in enumerate(calls):
        if name == "rename":
            before = calls[:index]
            written = {which[0] for what, which in before if what in WRITES and f"{which[0]}/".startswith(f"{files[0]}/")}
            found += [file for file in written if last(before, WRITES, file) > last(before, (*SYNCS, "unlink"), file)]
    return found


def changes_under_a_seal(calls: Calls, home: Path, sealed: bool) -> tuple[int, list[int]]:
    """How many writes to the database there are, and those made while a power failure could bring the seal back."""
    seal, database = str(home / "adreg.db.seal"), {str(home / "adreg.db"), str(home / "adreg.db-wal")}
    there = lasts = sealed  # a seal that is gone can come back until its folder is synced
    changes, wrong = 0, []
    for index, (name, files) in enumerate(calls):
        if name == "rename" and files[1] == seal:
            there = lasts = True
        elif name == "unlink" and files[0] == seal:
            there = False
        elif name in SYNCS and files[0] == str(home):
            lasts = there
        elif name in WRITES and files[0] in database:
            changes += 1
            wrong += [index] if lasts else []
    return changes, wrong


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
    sealed = (place.home / "adreg.db.seal").exists()
    changes, wrong = changes_under_a_seal(calls_of(operation, place), place.home, sealed)
    if not (sealed and changes):
        pytest.skip("changes no sealed database")
    assert wrong == []
