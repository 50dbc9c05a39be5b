"""Hostile names and hostile folders: refused in words, and never a byte written outside the registry."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adreg.errors import AdregError, FormatError
from adreg.references import parse_reference
from adreg.registry.manifest import FileEntry, Manifest, version_digest
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.registry.remotes.catalog import Remotes
from adreg.registry.store.leases import Lease
from tests.registry.soak.apart import apart
from tests.registry.soak.builders import furnished, opened, push, small_adapter, small_base
from tests.registry.soak.hostile import ENTRIES, KINDS, NAMES, odd_files, replace
from tests.registry.soak.oracle import faults, state
from tests.registry.soak.scale import ALL, amount, chosen

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EVENTS = {
    "os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.truncate": 1,
    "os.chmod": 1, "os.chown": 1, "os.utime": 1, "os.setxattr": 1, "shutil.rmtree": 1, "shutil.move": 2, "sqlite3.connect": 1,
}  # fmt: skip


def watch(*allowed: Path) -> list[str]:
    """From now on, note everything that this process writes, renames or removes elsewhere than below `allowed`."""
    noted: list[str] = []
    roots = [os.path.realpath(path) for path in allowed]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            paths = arguments[:1]
        else:
            paths = arguments[: EVENTS.get(event, 0)]
        named = [os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike)]
        noted.extend(f"{event} {path}" for path in named if not _below(path.removeprefix("file://"), roots))

    sys.dont_write_bytecode = True
    sys.addaudithook(hook)
    return noted


def _below(path: str, roots: list[str]) -> bool:
    where = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(path))  # noqa: PTH118, PTH119, PTH120, PTH100
    return any(where == root or where.startswith(root + os.sep) for root in roots) or where == "/dev/null"


def surfaces(registry: Registry, folder: Path, base: Path, out: Path) -> Iterator[tuple[str, Callable[[str], object]]]:
    """Everywhere that a name comes in."""
    adapters, labels = registry.adapters, registry.labels
    voice = parse_reference("voice:1")
    yield "push", lambda name: adapters.push(plan_push(folder), name, None, None)
    yield "push alias", lambda name: adapters.push(plan_push(folder), "voice", name, None)
    yield "alias", lambda name: adapters.set_alias(voice, name)
    yield "alias rm", lambda name: adapters.remove_alias("voice", name)
    yield "alias of", lambda name: adapters.remove_alias(name, "prod")
    yield "tag", lambda name: labels.tag(voice, [name])
    yield "untag", lambda name: labels.untag(voice, [name])
    yield "base", lambda name: registry.bases.add(str(base), name)
    yield "base show", registry.bases.get
    yield "reference", lambda name: adapters.pull(adapters.resolve(parse_reference(name)), out)
    yield "versions", adapters.versions
    yield "log", adapters.log
    yield "rm", lambda name: adapters.remove(name) if name != "voice" else None
    yield "restore", adapters.restore
    yield "describe", lambda name: labels.describe(name, "text")
    yield "search", adapters.search
    yield "run", registry.runs.get
    yield "remote", lambda name: Remotes(registry).add(name, "http://localhost:1/")
    yield "file of a manifest", lambda name: _receive(registry, name)


def _receive(registry: Registry, name: str) -> None:
    version = registry.adapters.resolve(parse_reference("voice:1"))
    files = {**registry.adapters.manifest(version).files, name: FileEntry("sha256:" + "0" * 64, 1)}
    value = {**registry.adapters.manifest(version).as_json(), "files": {path: vars(each) for path, each in files.items()}}
    manifest = Manifest.from_json({**value, "digest": version_digest(files, None)}, "a remote")
    with Lease(registry.db, "test") as held:
        registry.adapters.receive(manifest, None, "a remote", held)


def try_names(home: Path, sources: Path) -> dict[str, int]:
    out = home.parent / "pulled"
    noted, counts = watch(home, out), Counter[str]()
    with opened(home) as registry:
        for surface, work in surfaces(registry, sources / "voice1", sources / "base", out / "here"):
            for name in [NAMES[index] for index in chosen(len(NAMES), amount(ALL, 12), surface)]:
                try:
                    work(name)
                except AdregError:
                    counts["refused"] += 1
                except Exception as error:
                    raise AssertionError(f"{surface} {name[:60]!r}: {type(error).__name__}: {error}") from error
                else:
                    counts["taken"] += 1
    assert noted == []
    return dict(counts)


def test_hostile_names_are_refused_in_words_and_write_nowhere_else(tmp_path):
    home, sources = furnished(tmp_path / "home", tmp_path / "sources"), tmp_path / "sources"
    print(f"{len(NAMES)} hostile names: {apart(partial(try_names, home, sources))}")
    assert faults(home) == []
    adapters = state(home).adapters
    assert {"voice", "gone"} <= adapters.keys() and all(Path(name).parts[0] not in (".", "..", "/") for name in adapters)


def try_folders(home: Path, sources: Path) -> dict[str, int]:
    counts = Counter[str]()
    signal.alarm(120)  # a pipe that is opened waits for ever
    for entry in ENTRIES:
        for kind in KINDS:
            folder = small_adapter(sources / f"{entry}-{kind.__name__}", 1)
            if replace(folder / entry, kind):
                with pytest.raises(FormatError):
                    push(home, folder, "voice")
                counts["refused"] += 1
    odd_files(small_adapter(sources / "odd", 2))
    noted = watch(home)
    assert push(home, sources / "odd", "odd") == "odd:1"
    for folder in sorted(sources.iterdir()):
        if "-" in folder.name:
            with pytest.raises(FormatError):
                push(home, folder, "voice")
    assert noted == []
    return {**counts, "odd names": sum(1 for _ in (sources / "odd").iterdir())}


def test_folders_that_hold_more_than_files_are_refused_and_nothing_is_followed(tmp_path):
    home = furnished(tmp_path / "home", tmp_path / "sources")
    (tmp_path / "hostile").mkdir()
    (tmp_path / "outside.json").write_text('{"peft_type": "LORA"}')
    before = state(home)
    print(f"hostile folders: {apart(partial(try_folders, home, tmp_path / 'hostile'))}")
    found = state(home)
    assert found.adapters.pop("odd")[1].keys() == {1} and found.adapters == before.adapters
    stored = {path for path, _ in state(home).adapters["odd"][1][1][1]}
    assert stored == {"adapter_config.json", "adapter_model.safetensors"}
    assert faults(home) == []


def test_a_hard_link_is_a_file_like_any_other_and_keeps_its_bytes(tmp_path):
    folder = small_adapter(tmp_path / "linked", 1)
    inside, outside = folder / "README.md", tmp_path / "outside"
    outside.write_text("shared")
    inside.hardlink_to(outside)
    push(tmp_path / "home", folder, "voice")
    outside.write_text("changed")
    assert faults(tmp_path / "home") == []


def test_the_watch_sees_what_it_should(tmp_path):
    def look() -> int:
        noted = watch(tmp_path / "home")
        small_base(tmp_path / "elsewhere")
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "in").symlink_to(tmp_path)
        (tmp_path / "home" / "in" / "through").write_text("a link")
        (tmp_path / "home" / "fine").write_text("inside")
        assert not [line for line in noted if "fine" in line]
        assert [line for line in noted if "through" in line] and [line for line in noted if "mkdir" in line]
        return len(noted)

    assert int(apart(look)) >= 4
