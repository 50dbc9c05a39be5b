"""What is done to a registry while it is under fire: each operation with the registry it starts from."""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adreg.references import parse_reference
from adreg.registry.registry import Registry
from adreg.registry.remotes.objects.remote import open_object_store
from adreg.registry.remotes.sync import plan_sync, sync
from adreg.registry.upkeep.backup import backup
from adreg.registry.upkeep.gc import run_gc
from adreg.registry.upkeep.gcplan import GcPolicy, plan_gc
from adreg.registry.upkeep.restore import restore_backup
from tests.registry.soak.builders import age_schema, furnished, opened, push, set_alias, small_adapter, small_base, unpack
from tests.registry.soak.oracle import debris, faults, state
from tests.registry.soak.scale import FULL

CLEAN_ALL = GcPolicy(grace=0, purge_after=0, empty_trash=True)


@dataclass(frozen=True)
class Place:
    """One trial: the registry in `home`, and beside it `sources` to read from and `out` to write to."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def sources(self) -> Path:
        return self.root / "sources"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def again(self, root: Path) -> Place:
        """A copy of this place under `root`, in place of what is there."""
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.root, root, symlinks=True)
        return Place(root)


def furnish(place: Place) -> None:
    furnished(place.home, place.sources)


@dataclass(frozen=True)
class Operation:
    """`work` is carried out on a place that `prepare` made; `seen` is all that it can change, before and afterwards.

    One `in_parts` is several changes: cut off, it has made some of them, and once more it makes the rest.
    """

    name: str
    work: Callable[[Place], object]
    prepare: Callable[[Place], object] = furnish
    seen: Callable[[Place], object] = lambda place: (state(place.home), written(place.out))
    in_parts: bool = False

    def place(self, root: Path) -> Place:
        """A fresh place for this operation."""
        place = Place(root)
        place.home.mkdir(parents=True)
        self.prepare(place)
        small_adapter(place.sources / "new", 100, "new")
        small_adapter(place.sources / "next", 101, "next")
        small_base(place.sources / "newbase", 5)
        return place


def written(folder: Path) -> dict[str, bytes]:
    """The files that were put into `folder`; half-written ones beside it are not there for anybody."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def clean_up(registry: Registry) -> None:
    """A clean-up without any grace, as it would be a little later."""
    run_gc(registry, plan_gc(registry, CLEAN_ALL, now=time.time() + 10))


def nothing(_: Place) -> None:
    pass


def _push(place: Place) -> str:
    return push(place.home, place.sources / "new", "voice", "prod")


def _create(place: Place) -> str:
    return push(place.home, place.sources / "new", "first")


def _alias(place: Place) -> None:
    set_alias(place.home, "voice:3", "prod")


def _remove_alias(place: Place) -> None:
    with opened(place.home) as registry:
        registry.adapters.remove_alias("voice", "old")


def _remove(place: Place) -> None:
    with opened(place.home) as registry:
        registry.adapters.remove("voice")


def _restore(place: Place) -> None:
    with opened(place.home) as registry:
        registry.adapters.restore("gone")


def _yank(place: Place) -> None:
    with opened(place.home) as registry:
        registry.labels.yank(parse_reference("voice:3"), "wrong data")


def _add_base(place: Place) -> None:
    with opened(place.home) as registry:
        registry.bases.add(str(place.sources / "newbase"), "other")


def _pull(place: Place) -> None:
    with opened(place.home) as registry:
        registry.adapters.pull(registry.adapters.resolve(parse_reference("voice:2")), place.out)


def _litter(place: Place) -> None:
    """A furnished registry in which pushes were killed: blobs without rows, half-written files, a removed adapter."""
    furnish(place)
    for number in range(5):
        stray = place.home / "blobs" / "sha256" / f"{number:02x}" / f"{number:02x}{'0' * 62}"
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.write_bytes(b"stray")
    (place.home / "tmp").mkdir(exist_ok=True)
    (place.home / "tmp" / "half").write_bytes(b"half")
    (place.home / ".adreg.db.seal.12345678").write_text("b3:")


def _gc(place: Place) -> None:
    with opened(place.home) as registry:
        clean_up(registry)


def _backup(place: Place) -> None:
    with opened(place.home) as registry:
        backup(registry, place.out / "saved.tar")


def _saved(place: Place) -> object:
    """The registry, and the one that the backup holds, unpacked by another program's reader and sound by itself."""
    file, folder = place.out / "saved.tar", place.root / "unpacked"
    if not file.exists():
        return state(place.home), None
    with tarfile.open(file) as archive:
        unpack(archive, folder)
    assert faults(folder) == []
    found = state(folder)
    shutil.rmtree(folder)
    return state(place.home), found


def _save(place: Place) -> None:
    furnish(place)
    _backup(place)
    push(place.home, small_adapter(place.sources / "later", 50), "later")


def _bring_back(place: Place) -> None:
    restore_backup(place.out / "saved.tar", place.home, replace=True)


def _only_saved(place: Place) -> None:
    _save(place)
    shutil.rmtree(place.home)


def _age(place: Place) -> None:
    furnish(place)
    age_schema(place.home)


def _open(place: Place) -> None:
    with opened(place.home) as registry:
        registry.adapters.all()


def _steps(place: Place) -> object:
    with closing(sqlite3.connect(place.home / "adreg.db")) as db:
        return state(place.home), db.execute("select name from _sqlite_migrations order by name").fetchall()


def _sync(place: Place) -> None:
    remote = open_object_store((place.out / "remote").as_uri())
    with opened(place.home) as registry:
        assert sync(registry, remote, plan_sync(registry, remote)) == []


def _synced(place: Place) -> object:
    """Both sides: here, and the digests and aliases at the remote."""
    remote = open_object_store((place.out / "remote").as_uri())
    there = {name: ([each.digest for each in remote.versions(name)], remote.aliases(name)) for name in remote.names()}
    return state(place.home), there


def _furnish_little(place: Place) -> None:
    for number, alias in ((1, "prod"), (2, None)):
        push(place.home, small_adapter(place.sources / f"voice{number}", number), "voice", alias)


def _elsewhere(place: Place) -> None:
    """A remote that holds everything, and a registry that holds nothing."""
    _furnish_little(place)
    _sync(place)
    shutil.rmtree(place.home)
    place.home.mkdir()


OPERATIONS = [
    Operation("create", _create, nothing),
    Operation("push", _push),
    Operation("alias", _alias),
    Operation("alias rm", _remove_alias),
    Operation("rm", _remove),
    Operation("restore", _restore),
    Operation("yank", _yank),
    Operation("base add", _add_base),
    Operation("pull", _pull),
    Operation("gc", _gc, _litter, lambda place: (state(place.home), debris(place.home)), in_parts=True),
    Operation("backup", _backup, seen=_saved, in_parts=True),
    Operation("restore a backup", _bring_back, _only_saved, seen=_saved),
    Operation("restore over", _bring_back, _save, seen=_saved),
    Operation("migrate", _open, _age, seen=_steps),
    Operation("sync out", _sync, _furnish_little, seen=_synced, in_parts=True),
    Operation("sync in", _sync, _elsewhere, seen=_synced, in_parts=True),
]


def some(*names: str) -> list[Any]:
    """Every operation in the soak, elsewhere those named, as parameters of a test."""
    return [pytest.param(each, id=each.name) for each in OPERATIONS if FULL or not names or each.name in names]
