"""llama.cpp's set of adapters changes while it serves: nobody is cut off, nobody is mistaken, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI

from adreg.errors import ConflictError
from tests.builders import build_adapter
from tests.serve.engines.llamashop import TOKENS, Server, Shop, served, wait_until


def test_what_is_pushed_meanwhile_comes_in_while_streams_go_on_and_the_longest_unused_makes_room(
    changing: Shop, tmp_path: Path
) -> None:
    with served(changing, limit=3) as server:
        before = {name: server.ask(name) for name in ("three", "two", "one")}
        first = server.held
        stream = server.client.completions.create(model="one", prompt="Once", max_tokens=400, temperature=0, stream=True)
        began = next(stream).choices[0].text
        changing.push("one", build_adapter(changing.folder / "base", tmp_path / "new", seed=9), "prod")
        fresh = server.soon("one:prod")
        text = began + "".join(chunk.choices[0].text for chunk in stream)
        assert fresh not in before.values()
        assert server.ask("one:1") == before["one"]
        assert text == server.ask("one:1", "Once", max_tokens=400)
        assert {lora.reference for lora in server.held.loras} == {"one:1", "one:2", "two:1"}
        assert server.soon("three") == before["three"]
        wait_until(lambda: not first.process.alive)
        assert server.held.process.alive
    assert not server.held.process.alive


def test_what_no_gguf_lora_can_say_is_refused_by_name_and_the_others_go_on(changing: Shop, tmp_path: Path) -> None:
    with served(changing) as server:
        changing.push("dora", build_adapter(changing.folder / "base", tmp_path / "dora", seed=4, use_dora=True))
        wait_until(lambda: server.refused("dora").status_code != 503)
        refusal = server.refused("dora")
        assert refusal.status_code == 409
        assert "dora:1 cannot be served by llama.cpp" in str(refusal)
        assert server.ask("one") != server.ask("base")
    with pytest.raises(ConflictError, match="dora:1 cannot be served by llama"), served(changing, "dora"):
        pass
    with served(changing) as server:
        assert {lora.reference for lora in server.held.loras} == {"one:1", "two:1", "three:1"}


def test_a_process_that_dies_is_started_again(shop: Shop) -> None:
    with served(shop, "one") as server:
        answer, dead = server.ask("one"), server.held
        os.kill(engine_pid(server), signal.SIGKILL)
        wait_until(lambda: server.held is not dead)
        assert server.soon("one") == answer


def test_the_command_serves_until_a_signal_and_leaves_nothing_behind(shop: Shop) -> None:
    words = ["serve", "one", "--engine", "llama.cpp", "--quant", "f32", "--context", "512", "--threads", "1", "--port", "0"]
    environment = {**os.environ, "ADREG_HOME": str(shop.settings.home)}
    command = subprocess.Popen([sys.executable, "-m", "adreg", *words], env=environment, stderr=subprocess.PIPE, text=True)
    assert command.stderr is not None
    told = iter(command.stderr.readline, "")
    url = next(match[1] for line in told if (match := re.search(r"at (http\S+)/v1", line)))
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answer = client.completions.create(model="one", prompt="Once upon a time", max_tokens=TOKENS, temperature=0)
    assert answer.choices[0].text
    assert answer.model == "tiny"
    mine = children(command.pid)
    command.send_signal(signal.SIGINT)
    assert command.wait(30) == 130, command.stderr.read()
    command.stderr.close()
    assert len(mine) == 2
    assert [pid for pid in mine if Path(f"/proc/{pid}").exists()] == []


def engine_pid(server: Server) -> int:
    """That of llama.cpp itself, which its keeper has started."""
    return children(server.held.process._keeper.pid)[0]


def children(pid: int) -> list[int]:
    """The processes that `pid` has started, and those that they have."""
    found = [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]
    return [*found, *(below for one in found for below in children(one))]
