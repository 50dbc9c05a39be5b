from __future__ import annotations

import hashlib
import os
import random

import pytest

from adreg.formats import streamed
from adreg.formats.streamed import StreamedFile
from tests.registry.soak.apart import apart, small_disk


def write_pieces(path):
    dice = random.Random(0)
    pieces = [dice.randbytes(size) for size in (0, 1, 4095, 4096, 70_000, 5, 131_072, 3)]
    with StreamedFile(path) as file:
        for piece in pieces:
            file.write(piece)
    whole = b"".join(pieces)
    assert path.read_bytes() == whole
    assert (file.size, file.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())


def on_a_small_disk(disk):
    with small_disk(disk):
        write_pieces(disk / "file")


@pytest.mark.parametrize("buffer", [4096, 1 << 16, streamed.BUFFER])
def test_pieces_of_any_size_make_the_file_and_its_digest(buffer, tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "BUFFER", buffer)
    write_pieces(tmp_path / "direct")
    monkeypatch.setattr(streamed, "DIRECT", 0)
    write_pieces(tmp_path / "through-the-cache")
    apart(lambda: on_a_small_disk(tmp_path))


@pytest.mark.skipif(not streamed.DIRECT, reason="this system has no direct writes")
def test_a_file_system_that_refuses_direct_writes_is_written_through_its_cache(tmp_path):
    handle = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT | streamed.DIRECT)
    unaligned = memoryview(bytearray(10_001))[1:]  # as refused as every write is there
    streamed._write_all(handle, unaligned)
    os.close(handle)
    assert (tmp_path / "file").stat().st_size == 10_000


def test_what_exists_is_not_written_over(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        StreamedFile(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
