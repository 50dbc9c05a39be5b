"""Bytes that flip and files that are cut: a check finds every one, and changes nothing of it."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from adreg.errors import AdregError, IntegrityError
from adreg.registry.store.database import transaction
from adreg.registry.upkeep.fsck import fsck
from adreg.registry.upkeep.reading import ReadData
from tests.registry.soak.builders import furnished, opened, push, small_adapter
from tests.registry.soak.oracle import debris
from tests.registry.soak.scale import amount

HEADER, PAGE = 100, 4096
KINDS = {2: "interior", 5: "interior", 10: "leaf", 13: "leaf"}  # sqlite.org/fileformat2.html#b_tree_pages


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A registry whose database has pages of every kind, free ones too."""
    root = tmp_path_factory.mktemp("damage")
    home = furnished(root / "home", root / "sources")
    for number in range(8):
        push(home, small_adapter(root / "sources" / f"many{number}", 200 + number, f"{number} " * 300), f"many{number}")
    with opened(home) as registry:
        with transaction(registry.db):
            rows = [(f"run-{number}", f'{{"id": "run-{number}", "note": "{"x" * 900}"}}') for number in range(600)]
            registry.db.conn.executemany("insert into run values (?, 'finished', '2026', null, ?)", rows)
        with transaction(registry.db):
            registry.db.execute("delete from run where id like 'run-%0'")
            registry.db.execute("delete from run where id between 'run-11' and 'run-30'")
        registry.labels.describe("voice", "x" * 3 * PAGE)
    assert problems(home) == []
    return home


def problems(home) -> list[str]:
    """What a full check of the bytes finds; an error that says so counts."""
    with opened(home) as registry:
        try:
            return [problem.message for problem in fsck(registry, ReadData()).problems]
        except AdregError as error:
            return [str(error)]


def region(content: bytes, free: set[int], offset: int) -> str:
    page = offset // PAGE
    if offset < HEADER:
        return "header"
    if page + 1 in free:
        return "free page"
    return KINDS.get(content[page * PAGE + (HEADER if page == 0 else 0)], "overflow")


def free_pages(home) -> set[int]:
    """The free list, trunk by trunk. Source: sqlite.org/fileformat2.html#the_freelist."""
    content = (home / "adreg.db").read_bytes()
    number = int.from_bytes(content[32:36], "big")
    found: set[int] = set()
    while number:
        trunk = content[(number - 1) * PAGE : number * PAGE]
        words = [int.from_bytes(trunk[at : at + 4], "big") for at in range(0, PAGE, 4)]
        found |= {number, *words[2 : 2 + words[1]]}
        number = words[0]
    return found


def places(content: bytes, free: set[int], each: int) -> Iterator[tuple[str, int]]:
    """`each` places in every region, drawn at random."""
    dice, left = random.Random(5), Counter[str]()
    offsets = [*range(HEADER), *range(HEADER, len(content), 97)]
    dice.shuffle(offsets)
    for offset in offsets:
        where = region(content, free, offset)
        left[where] += 1
        if left[where] <= each:
            yield where, offset


def test_every_flipped_byte_of_the_database_is_found(damaged):
    path, free = damaged / "adreg.db", free_pages(damaged)
    content, counts, dice = path.read_bytes(), Counter[str](), random.Random(6)
    for where, offset in places(content, free, amount(80, 3)):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        assert problems(damaged), f"{where} byte {offset}"
        assert path.read_bytes() == flipped, "a check changed a damaged database"
        counts[where] += 1
        path.write_bytes(content)
    print(f"database: {counts.total()} flips, all found: {dict(counts)}")
    assert set(counts) == {"header", "interior", "leaf", "overflow", "free page"}
    assert problems(damaged) == []


def test_every_cut_of_the_database_is_found(damaged):
    path, dice = damaged / "adreg.db", random.Random(7)
    content = path.read_bytes()
    cuts = [0, 1, HEADER, PAGE, len(content) - PAGE, len(content) - 1, len(content) + 1, len(content) + PAGE]
    cuts += [dice.randrange(len(content)) for _ in range(amount(60, 0))]
    for size in cuts:
        path.write_bytes((content + bytes(PAGE))[:size])
        assert problems(damaged), size
        path.write_bytes(content)
    print(f"database: {len(cuts)} cuts, all found")
    assert problems(damaged) == []


def test_every_flipped_byte_of_the_seal_is_found(damaged):
    path = damaged / "adreg.db.seal"
    content, dice = path.read_bytes(), random.Random(8)
    offsets = [*dice.sample(range(len(content)), amount(len(content), 3)), len(content) - 1]
    for offset in offsets:
        for bit in range(amount(8, 1)):
            flipped = bytearray(content)
            flipped[offset] ^= 1 << bit
            path.write_bytes(flipped)
            assert problems(damaged), (offset, bit)
            with pytest.raises(IntegrityError), opened(damaged) as registry:
                registry.adapters.remove("voice")
    path.write_bytes(content)
    print(f"seal: {len(offsets) * amount(8, 1)} flips, all found")
    assert problems(damaged) == []


def test_every_damaged_blob_is_found(damaged):
    blobs = [path for path in (damaged / "blobs").rglob("*") if path.is_file()]
    dice, counts = random.Random(9), Counter[str]()
    for _ in range(amount(160, 6)):
        path, kind = dice.choice(blobs), dice.choice(["flip", "cut", "grown", "gone", "empty", "a link"])
        content = path.read_bytes()
        path.unlink()
        damage(path, content, kind, dice)
        found = problems(damaged)
        assert len(found) == 1, (path.name, kind, found)
        counts[kind] += 1
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    print(f"blobs: {counts.total()} damaged, all found: {dict(counts)}")
    assert problems(damaged) == [] and debris(damaged) == []


def damage(path, content: bytes, kind: str, dice: random.Random) -> None:
    if kind == "flip":
        raw = bytearray(content)
        raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        path.write_bytes(raw)
    elif kind in ("cut", "empty"):
        path.write_bytes(content[: dice.randrange(len(content)) if kind == "cut" else 0])
    elif kind == "grown":
        path.write_bytes(content + b"\0")
    elif kind == "a link":
        path.symlink_to("/dev/null")


def test_a_change_from_outside_is_found_even_where_sqlite_sees_nothing_wrong(damaged):
    path = damaged / "adreg.db"
    content = path.read_bytes()
    for change in (
        "update alias set version_id = (select max(id) from version) where name = 'prod'",
        "delete from alias",
        "update adapter set name = 'vioce' where name = 'voice'",
        "drop trigger version_is_immutable",
        "create table extra (x)",
    ):
        with closing(sqlite3.connect(path)) as db:
            db.execute(change)
            db.commit()
        assert problems(damaged), change
        path.write_bytes(content)
    assert problems(damaged) == []
