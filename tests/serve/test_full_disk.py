"""The disk runs full under a server, or was full before it began: requests get the answers that they get with space left."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest

from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.serve.loading import EngineSettings, load_executor, why_general
from adreg.serve.native import library
from adreg.serve.server.presence import FOLDER
from tests.builders import build_adapter, build_checkpoint
from tests.registry.soak.apart import apart, small_disk, used
from tests.serve.churn import Shop

NAMES = ("one", "two", "three")
MODELS = ("base", *NAMES)
PAGE = 4096

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("full-disk")
    base = build_checkpoint(folder / "base", "llama", tokenizer_folder, initializer_range=0.15, tie_word_embeddings=False)
    return base, build_adapter(base, folder / "adapter", seed=1)


def fill(disk: Path, resize: Callable[[int], None]) -> None:
    """Leave no page on `disk`."""
    resize(used(disk) // PAGE * PAGE)
    with pytest.raises(OSError, match="No space left"):
        (disk / "one-more").write_bytes(bytes(2 * PAGE))
    (disk / "one-more").unlink(missing_ok=True)


@contextmanager
def serving(disk: Path, log: Path) -> Iterator[str]:
    """`adreg serve` with everything that it writes on `disk`, and what it says in `log`; yields its URL."""
    places = {"ADREG_HOME": disk / "home", "TMPDIR": disk / "tmp", "XDG_CACHE_HOME": disk / "cache"}
    environment = {**os.environ, **{name: str(path) for name, path in places.items()}}
    words = [sys.executable, "-m", "adreg", "serve", "--base", "tiny", "--port", "0", "--access-log", "--dtype", "float32"]
    with log.open("ab") as stderr, subprocess.Popen(words, env=environment, stderr=stderr) as server:
        try:
            yield url_in(log, server)
        finally:
            server.terminate()
            assert server.wait(30) in (0, -15, 143)


def url_in(log: Path, server: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while (found := re.search(r"adapter versions at (http://\S+)/v1", log.read_text())) is None:
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return found[1]


def answers(url: str, *models: str) -> dict[str, str]:
    told = {}
    for model in models:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "temperature": 0}
        answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        told[model] = str(answer.json()["choices"][0]["message"]["content"])
    return told


def on_a_disk_that_fills(files: tuple[Path, Path], disk: Path, log: Path) -> int:
    with small_disk(disk) as resize:
        (disk / "tmp").mkdir()
        shop = Shop(disk / "home", files[0], [files[1]])
        for name in NAMES:
            shop.push(name)
        shop.registry.db.conn.close()
        with serving(disk, log) as url:
            wanted = answers(url, *MODELS)
        with serving(disk, disk / "log") as url:
            assert answers(url, "base", "one") == {name: wanted[name] for name in ("base", "one")}
            fill(disk, resize)
            assert answers(url, *MODELS) == wanted, "cold ones too"
            assert len(list((disk / "home" / FOLDER).glob("*.json"))) == 1
        logged = [line for line in (disk / "log").read_text().splitlines() if line.startswith("{")]
        assert all(json.loads(line)["status"] == 200 for line in logged)
        log.write_text("")
        fill(disk, resize)
        with serving(disk, log) as url:
            assert answers(url, *MODELS) == wanted
            assert list((disk / "home" / FOLDER).iterdir()) == []
        assert "do not find this server" in log.read_text()
    return len(set(wanted.values()))


def test_requests_do_not_notice(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    assert apart(partial(on_a_disk_that_fills, files, tmp_path / "disk", tmp_path / "log")) == "4"


def with_nowhere_to_compile(base: Path, disk: Path) -> str:
    logging.getLogger("adreg.native").addHandler(logging.FileHandler(disk.parent / "said"))
    settings, checkpoint = EngineSettings(device="cpu"), open_checkpoint(base)
    with small_disk(disk) as resize:
        os.environ["XDG_CACHE_HOME"] = str(disk / "cache")
        library.library.cache_clear()
        (disk / "something").write_bytes(bytes(PAGE))
        fill(disk, resize)
        assert why_general(checkpoint, settings) is None
        assert "compiled for this process alone" in (disk.parent / "said").read_text()
        library.library.cache_clear()
        tempfile.tempdir = str(disk)
        why = str(why_general(checkpoint, settings))
        assert type(load_executor(checkpoint, settings)).__name__ == "GeneralExecutor"
        assert [path.name for path in disk.rglob("*") if path.is_file()] == ["something"]
    return why


def test_where_nothing_can_be_kept_each_process_compiles_for_itself_or_takes_the_general_engine(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    assert "No space left on device" in apart(partial(with_nowhere_to_compile, files[0], tmp_path / "disk"))
