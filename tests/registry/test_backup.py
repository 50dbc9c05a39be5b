"""A backup is whole and of one moment; a restored registry is the same one; a hostile archive writes nothing anywhere."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from functools import partial

import pytest

from adreg.errors import AdregError, ConflictError, FormatError, IntegrityError, NotFoundError
from adreg.registry.store.database import transaction
from adreg.registry.store.leases import Lease
from adreg.registry.upkeep.backup import backup
from adreg.registry.upkeep.fsck import fsck
from adreg.registry.upkeep.gc import run_gc
from adreg.registry.upkeep.gcplan import GcPolicy, plan_gc
from adreg.registry.upkeep.reading import ReadData
from adreg.registry.upkeep.repair import repair
from adreg.registry.upkeep.restore import restore_backup
from tests.registry.processes import run_and_kill, spawn, time_of, wait
from tests.registry.soak.builders import opened, push, small_adapter, small_base

TABLES = ("adapter", "version", "version_file", "alias", "blob", "base", "event", "run", "artifact", "tag", "parent")


@pytest.fixture
def pushed(home, tmp_path):
    with opened(home) as registry:
        registry.bases.add(str(small_base(tmp_path / "base")), "tiny")
    for number in range(3):
        push(home, small_adapter(tmp_path / f"v{number}", number), "voice", "prod")
    return home


@pytest.fixture
def saved(pushed, tmp_path):
    return save(pushed, tmp_path / "backup.tar")


def save(home, file):
    with opened(home) as registry:
        backup(registry, file)
    return file


def contents(home):
    with opened(home) as registry:
        columns = {name: "digest, size, state" if name == "blob" else "*" for name in TABLES}
        return {name: sorted(map(repr, registry.db.execute(f"select {columns[name]} from {name}"))) for name in TABLES}


def check(home):
    with opened(home) as registry:
        report = fsck(registry, ReadData())
    assert report.problems == (), report


def content(archive, member):
    data = archive.extractfile(member)
    assert data is not None
    return data.read()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_restored_registry_is_the_one_that_was_saved(pushed, saved, tmp_path):
    new = restore_backup(saved, tmp_path / "new").home
    assert contents(new) == contents(pushed)
    assert (new / "adreg.db.seal").exists()
    check(new)
    assert push(new, small_adapter(tmp_path / "next", 9), "voice") == "voice:4"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_any_tar_program_reads_a_backup_and_only_its_owner_may(saved):
    listed = subprocess.run(["tar", "tf", saved], capture_output=True, text=True, check=True).stdout.split()
    assert listed[:2] == ["manifest.json", "adreg.db"] and all(name.startswith("blobs/sha256/") for name in listed[2:])
    assert saved.stat().st_mode & 0o077 == 0
    with tarfile.open(saved) as archive:
        manifest = json.loads(content(archive, "manifest.json"))
    assert manifest["counts"]["version"] == 3 and len(manifest["blobs"]) == len(listed) - 2


def test_a_registry_in_use_is_refused_and_a_replaced_one_is_kept_aside(pushed, saved, tmp_path):
    push(pushed, small_adapter(tmp_path / "later", 9), "voice")
    later = contents(pushed)
    with pytest.raises(ConflictError, match="not empty"):
        restore_backup(saved, pushed)
    with opened(pushed) as registry, Lease(registry.db, "push"), pytest.raises(ConflictError, match="in use"):
        restore_backup(saved, pushed, replace=True)
    restored = restore_backup(saved, pushed, replace=True)
    assert restored.aside is not None and restored.aside.name.startswith(f"{pushed.name}.before-restore-")
    assert contents(restored.aside) == later and len(contents(pushed)["version"]) == 3
    check(pushed)
    shutil.rmtree(restored.aside)


def test_a_backup_replaces_a_database_that_does_not_open(pushed, saved):
    (pushed / "adreg.db").write_bytes(b"rubbish" * 1000)
    restore_backup(saved, pushed, replace=True)
    check(pushed)


def test_backups_beside_pushes_and_clean_ups_are_each_of_one_moment(home, tmp_path):
    push(home, small_adapter(tmp_path / "first", 999), "voice")
    folders = [small_adapter(tmp_path / f"p{number}", number) for number in range(40)]

    def pusher():
        for number, folder in enumerate(folders):
            if (tmp_path / "stop").exists():
                return
            push(home, folder, "voice" if number % 2 else f"gone{number}")
            if not number % 2:
                with opened(home) as registry:
                    registry.adapters.remove(f"gone{number}")

    def cleaner():
        while not (tmp_path / "stop").exists():
            with opened(home) as registry:
                run_gc(registry, plan_gc(registry, GcPolicy(0, 0, empty_trash=True)))

    beside = [spawn(pusher), spawn(cleaner)]
    try:
        for number in range(6):
            check(restore_backup(save(home, tmp_path / f"b{number}.tar"), tmp_path / f"r{number}").home)
    finally:
        (tmp_path / "stop").touch()
        codes = [wait(child) for child in beside]
    assert codes == [0, 0]
    check(home)


def test_a_backup_killed_anywhere_leaves_the_old_file_or_the_new_one(pushed, saved, tmp_path):
    dice = random.Random(2)
    ended, usual = 0, time_of(lambda: save(pushed, saved))
    for trial in range(15):
        ended += run_and_kill(lambda: save(pushed, saved), dice.uniform(0, 1.2 * usual))
        check(restore_backup(saved, tmp_path / f"r{trial}").home)
        check(pushed)
    assert ended < 15


def test_a_restore_killed_anywhere_leaves_nothing_or_the_whole(saved, tmp_path):
    dice = random.Random(4)
    outcomes, usual = [], time_of(partial(restore_backup, saved, tmp_path / "first"))
    for trial in range(15):
        home = tmp_path / f"r{trial}"
        run_and_kill(partial(restore_backup, saved, home), dice.uniform(0, 1.2 * usual))
        outcomes.append(home.exists())
        if home.exists():
            check(home)
    assert not all(outcomes)


def test_a_damaged_blob_is_never_saved_and_a_lost_one_is_named(pushed, tmp_path):
    with opened(pushed) as registry:
        digest = registry.db.execute("select digest from version_file where path = 'adapter_model.safetensors'").fetchone()[0]
        path = registry.blobs.path(digest)
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))
        with pytest.raises(IntegrityError, match=digest):
            backup(registry, tmp_path / "backup.tar")
        assert not (tmp_path / "backup.tar").exists()
        repair(registry, fsck(registry, ReadData()), lambda *_: False)
        assert backup(registry, tmp_path / "backup.tar").manifest.absent == (digest,)
    restored = restore_backup(tmp_path / "backup.tar", tmp_path / "new").home
    with opened(restored) as registry:
        assert [problem.subject for problem in fsck(registry).problems] == [digest]


def test_nothing_is_saved_where_there_is_no_registry(home, tmp_path):
    with opened(home / "none") as registry, pytest.raises(NotFoundError):
        backup(registry, tmp_path / "b.tar")
    with pytest.raises(NotFoundError):
        restore_backup(tmp_path / "b.tar", tmp_path / "new")
    assert not (home / "none").exists() and list(tmp_path.iterdir()) == []


def members(file):
    """The files of an archive as (header, bytes)."""
    with tarfile.open(file) as archive:
        return [(info, content(archive, info)) for info in archive]


def pack(file, listed, format_=tarfile.GNU_FORMAT):
    with tarfile.open(file, "w", format=format_) as archive:
        for info, data in listed:
            archive.addfile(info, io.BytesIO(data))
    raw = file.read_bytes()
    end = sum(512 + len(data) + -len(data) % 512 for _, data in listed) + 1024
    file.write_bytes(raw[:end])  # tarfile fills the last record


def renamed(info, name):
    copy = tarfile.TarInfo(name)
    copy.size = info.size
    return copy


def typed(info, kind, link=""):
    copy = renamed(info, info.name)
    copy.type, copy.linkname = kind, link
    return copy


def manifest_with(**changes):
    def change(listed):
        value = json.loads(listed[0][1])
        for name, given in changes.items():
            value[name] = given(value[name])
        data = json.dumps(value).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(data)
        return [(info, data), *listed[1:]]

    return change


def replaced(index, change):
    return lambda listed: [*listed[:index], change(*listed[index]), *listed[index + 1 :]]


HOSTILE = {
    "climbs out": replaced(2, lambda info, data: (renamed(info, "../../escaped"), data)),
    "absolute": replaced(2, lambda info, data: (renamed(info, "/tmp/escaped"), data)),
    "symbolic link": replaced(2, lambda info, data: (typed(info, tarfile.SYMTYPE, "/etc/passwd"), data)),
    "hard link": replaced(2, lambda info, data: (typed(info, tarfile.LNKTYPE, "adreg.db"), data)),
    "device": replaced(2, lambda info, data: (typed(info, tarfile.CHRTYPE), data)),
    "fifo": replaced(2, lambda info, data: (typed(info, tarfile.FIFOTYPE), data)),
    "folder": replaced(2, lambda info, data: (typed(info, tarfile.DIRTYPE), data)),
    "sparse": replaced(2, lambda info, data: (typed(info, tarfile.GNUTYPE_SPARSE), data)),
    "long name": replaced(2, lambda info, data: (typed(info, tarfile.GNUTYPE_LONGNAME), data)),
    "extended header": replaced(2, lambda info, data: (typed(info, tarfile.XHDTYPE), data)),
    "member twice": lambda listed: [*listed, listed[-1]],
    "member more": lambda listed: [*listed, (renamed(listed[2][0], "blobs/sha256/00/more"), listed[2][1])],
    "member less": lambda listed: listed[:-1],
    "other order": lambda listed: [listed[0], listed[2], listed[1], *listed[3:]],
    "no manifest": lambda listed: listed[1:],
    "other bytes": replaced(2, lambda info, data: (info, bytes(len(data)))),
    "other database": replaced(1, lambda info, data: (info, data[:-1] + b"?")),
    "huge": manifest_with(blobs=lambda blobs: [{**blobs[0], "size": 2**52}, *blobs[1:]]),
    "negative": manifest_with(blobs=lambda blobs: [{**blobs[0], "size": -1}, *blobs[1:]]),
    "blob named as a path": manifest_with(blobs=lambda blobs: [{**blobs[0], "digest": "sha256:../../../x"}, *blobs[1:]]),
    "blob twice": manifest_with(blobs=lambda blobs: [blobs[0], *blobs]),
    "blobs no list": manifest_with(blobs=lambda _: 7),
    "newer format": manifest_with(format=lambda _: 2),
    "other kind": manifest_with(kind=lambda _: "other"),
    "missing blob": lambda listed: manifest_with(blobs=lambda blobs: blobs[:-1])(listed[:-1]),
}  # fmt: skip


@pytest.mark.parametrize("way", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_written(saved, tmp_path, way):
    pack(tmp_path / "hostile.tar", HOSTILE[way](members(saved)))
    before = files(tmp_path)
    opened_for_writing: list[str] = []
    watched.append(opened_for_writing)
    try:
        with pytest.raises(IntegrityError if way == "missing blob" else FormatError):
            restore_backup(tmp_path / "hostile.tar", tmp_path / "new")
    finally:
        watched.clear()
    assert files(tmp_path) == before
    assert all(str(path).startswith(str(tmp_path / ".new.")) for path in opened_for_writing), opened_for_writing


watched: list[list[str]] = []


def watch(event, arguments):
    if watched and event == "open" and isinstance(arguments[0], str | os.PathLike):
        writing = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(arguments[2], int) else False
        if writing:
            watched[0].append(str(arguments[0]))


sys.addaudithook(watch)


def test_the_archive_packed_again_unchanged_is_taken(saved, tmp_path):
    pack(tmp_path / "same.tar", members(saved))
    check(restore_backup(tmp_path / "same.tar", tmp_path / "new").home)


def test_every_cut_and_every_flipped_byte_of_an_archive_is_found_or_harmless(pushed, saved, tmp_path):
    good = saved.read_bytes()
    whole = contents(pushed)
    for length in range(0, len(good), len(good) // 40):
        saved.write_bytes(good[:length])
        with pytest.raises(AdregError):
            restore_backup(saved, tmp_path / "new")
    saved.write_bytes(good + b"\0")
    with pytest.raises(FormatError):
        restore_backup(saved, tmp_path / "new")
    refused = 0
    places = [*range(0, 2500, 61), *range(2500, len(good), len(good) // 60)]
    for place in places:
        saved.write_bytes(bytes([*good[:place], good[place] ^ 4, *good[place + 1 :]]))
        try:
            restore_backup(saved, tmp_path / "new")
        except AdregError:
            refused += 1
        else:
            assert contents(tmp_path / "new") == whole  # a count or a date in the manifest that nothing goes by
            shutil.rmtree(tmp_path / "new")
    assert refused > 0.9 * len(places), (refused, len(places))


def test_tables_that_are_not_adregs_are_refused(pushed, tmp_path):
    with opened(pushed) as registry, transaction(registry.db):
        registry.db.execute("create trigger mine after insert on event begin delete from alias; end")
    with pytest.raises(IntegrityError, match="mine"):
        restore_backup(save(pushed, tmp_path / "b.tar"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_restore_takes_a_file_or_the_name_of_a_removed_adapter(pushed, tmp_path, monkeypatch):
    def run(*words):
        command = [sys.executable, "-c", "import sys; from adreg.cli.app import main; sys.argv[0] = 'adreg'; main()", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    saved = json.loads(run("backup", "b.tar", "--json").stdout)
    assert saved["counts"]["version"] == 3 and saved["size"] == (tmp_path / "b.tar").stat().st_size
    with opened(pushed) as registry:
        registry.adapters.remove("voice")
    assert run("restore", "voice", "-q").stdout == "voice\n"
    assert run("restore", "b.tar").returncode == 4
    assert run("restore", "./none.tar").returncode == 3 and run("restore", "nobody").returncode == 3
    done = run("restore", "b.tar", "--replace", "--json")
    shutil.rmtree(json.loads(done.stdout)["aside"])
    monkeypatch.setenv("ADREG_HOME", str(tmp_path / "new"))
    assert run("restore", "b.tar").returncode == 0 and run("fsck", "--read-data").returncode == 0
    assert run("ls", "-q").stdout == "voice:3\n"
