"""`adreg ps` and `adreg chat`, with a server that runs, with none, through a pipe and in a terminal."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adreg.serve.api.app import create_app
from adreg.serve.api.service import Options
from adreg.serve.server.metrics import Metrics
from adreg.serve.server.presence import announced
from adreg.serve.server.server import running_server
from tests.builders import build_adapter, build_checkpoint
from tests.cli.conftest import Result
from tests.serve.churn import Shop

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("served")
    base = build_checkpoint(folder / "base", "llama", tokenizer_folder, initializer_range=0.15, max_position_embeddings=1 << 15)
    return base, build_adapter(base, folder / "adapter", seed=1)


@pytest.fixture
def shop(home: Path, files: tuple[Path, Path]) -> Shop:
    """Two versions of "voice", one of "smile"."""
    shop = Shop(home, files[0], [files[1]])
    for name in ("voice", "voice", "smile"):
        shop.push(name)
    return shop


@pytest.fixture
def url(shop: Shop, home: Path) -> Iterator[str]:
    metrics = Metrics()
    with (
        running_server(create_app(shop.engine(metrics), Options(metrics=metrics))) as url,
        announced(home, "tiny", None, url),
    ):
        yield url


def test_ps_tells_what_runs_and_does_not_need_torch_for_it(adreg: Command, process: Command, shop: Shop, url: str) -> None:
    httpx2.post(f"{url}/v1/completions", json={"model": "voice:1", "prompt": "hello", "max_tokens": 5}, timeout=30)
    (server,) = json.loads(adreg("ps", "--json").out)
    assert (server["url"], server["base"], server["state"], server["pid"]) == (url, "tiny", "up", os.getpid())
    assert server["generated_tokens"] == 5
    adapter = {"name": "voice:1", "digest": shop.digests["voice:1"], "state": "resident"}
    assert server["adapters"] == [adapter]
    told = process("ps").out
    assert url in told and "voice:1" in told and "resident" in told
    look = "import sys; from adreg.cli.ps import ps; ps(); sys.exit(bool({'torch', 'numpy', 'starlette'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", look], check=True, capture_output=True)


def test_ps_without_a_server_says_so_and_one_that_hangs_has_no_answer(adreg: Command, home: Path) -> None:
    assert adreg("ps").err == "no server runs here; adreg serve REF starts one\n"
    with announced(home, "tiny", None, "http://127.0.0.1:9"):
        (server,) = json.loads(adreg("ps", "--json").out)
    assert (server["state"], server["base"]) == ("no answer", "tiny")


def test_a_piped_chat_is_a_conversation_with_the_running_server(
    adreg: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nand now\n/reset\nhello\n/model smile\nhello\nstop\nnever\n"))
    said = adreg("chat", "voice", "--temperature", 0, "--max-tokens", 6, "--system", "be brief")
    assert said.code == 0
    assert f"talking to the server at {url}" in said.err and "voice:2 (" in said.err and "smile:1 (" in said.err

    def answer(model: str, *messages: str) -> str:
        roles = ("user", "assistant")
        talk = [{"role": roles[index % 2], "content": text} for index, text in enumerate(messages)]
        body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": 6}
        body["messages"] = [{"role": "system", "content": "be brief"}, *talk]
        got = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=30).json()
        return str(got["choices"][0]["message"]["content"])

    first = answer("voice", "hello")
    second = answer("voice", "hello", first, "and now")
    assert said.out.splitlines() == "\n".join([first, second, first, answer("smile", "hello", first, "hello")]).splitlines()


def test_a_piped_chat_with_nobody_of_that_name_fails(adreg: Command, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert adreg("chat", "nobody").code == 3


def in_a_terminal(words: list[str], script: list[tuple[str, str]]) -> tuple[str, int]:
    """What a terminal shows while a user waits for each text of `script` and then types what belongs to it."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(sys.executable, [sys.executable, "-m", "adreg", *words], {**os.environ, "TERM": "xterm"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    shown, seen, steps, deadline = b"", 0, iter(script), time.monotonic() + 60
    wanted, typed = next(steps)
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:
                break
        if (found := shown.find(wanted.encode(), seen)) >= 0:
            seen = found + len(wanted.encode())
            os.write(terminal, typed.encode())
            wanted, typed = next(steps, ("\0", ""))
    os.close(terminal)
    return shown.decode(errors="replace"), os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_in_a_terminal_chat_starts_its_own_engine_and_ctrl_c_stops_one_answer_only(shop: Shop) -> None:
    script = [
        ("› ", "hello\r"), ("hello\r\n", ""), (" ", "\x03"), ("stopped", ""),
        ("› ", "/system be brief\r"), ("› ", "/nonsense\r"), ("› ", "\x04"),
    ]  # fmt: skip
    shown, code = in_a_terminal(["chat", "voice", "--max-tokens", "20000"], script)
    assert code == 0, shown
    for text in ("voice:2 (", "on tiny answers", "stopped", "system: be brief", "/reset forgets"):
        assert text in shown, shown
