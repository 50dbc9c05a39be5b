"""`adreg serve --engine vllm` with the real vLLM: every name is its own adapter, and says what PEFT says; nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil  # type: ignore[import-untyped]
import pytest
from openai import OpenAI

from adreg.registry.keys import Grant
from tests.vllm.conftest import PROMPT, VLLM, Server, World, environment, running

SERVE = (sys.executable, "-m", "adreg", "serve", "--engine", "vllm", "--vllm", str(VLLM), "--port", "0")
SMALL = ("--dtype", "float32", "--context", "256", "--max-adapters", "2")
pytestmark = pytest.mark.timeout(1800)


@dataclass
class Served:
    """adreg in front of vLLM, over a world with three adapters of its base and one of another."""

    server: Server
    world: World


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[Served]:
    world.push("voice", alias="prod")
    world.push("tone", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    world.push("style", r=12, use_rslora=True, rank_pattern={"layers.1.self_attn.q_proj": 2})
    world.push("stranger", "other")
    _, secret = world.registry.keys.create("test", Grant())
    log = world.folder / "serve.log"
    variables = environment(world.folder / "home")
    with running((*SERVE, *SMALL, "--base", "tiny"), variables, log, lambda: "✓ serving" in log.read_text()) as process:
        found = re.search(r"at (http://[0-9.:]+)/v1", log.read_text())
        assert found
        yield Served(Server(found[1], secret, log, process), world)


def version(served: Served, reference: str):
    from adreg.references import parse_reference

    return served.world.registry.adapters.resolve(parse_reference(reference))


def test_the_flags_are_those_that_the_adapters_need(served: Served) -> None:
    (vllm,) = (one for one in psutil.process_iter(["cmdline"]) if str(VLLM) in (one.info["cmdline"] or [])[:3])
    words = vllm.info["cmdline"]
    told = {flag: words[words.index(flag) + 1] for flag in ("--max-lora-rank", "--max-loras", "--api-server-count", "--host")}
    assert told == {"--max-lora-rank": "16", "--max-loras": "3", "--api-server-count": "1", "--host": "127.0.0.1"}
    assert not any("key" in word or "secret" in word for word in words)


@pytest.mark.parametrize("name", ["tiny", "voice:prod", "voice", "tone:1", "style"])
def test_the_answers_are_peft_s_tokens(served: Served, name: str) -> None:
    expected = served.world.expected(None if name == "tiny" else version(served, name))
    assert served.server.tokens(name) == expected


def test_the_adapters_and_the_base_answer_differently(served: Served) -> None:
    names = ("tiny", "voice:1", "tone:1", "style:1")
    assert len({tuple(served.server.tokens(name)) for name in names}) == len(names)


def test_what_is_pushed_while_it_runs_is_served_by_its_name(served: Served) -> None:
    assert served.server.refused("late")[0] == 404
    late = served.world.push("late", r=16)
    assert served.server.tokens("late") == served.world.expected(late)


def test_a_moved_alias_is_the_other_version_from_the_next_request_on(served: Served) -> None:
    old, new = served.world.push("moved", alias="prod"), served.world.push("moved")
    assert served.server.tokens("moved:prod") == served.world.expected(old)
    served.world.point("moved:2", "prod")
    assert served.server.tokens("moved:prod") == served.world.expected(new) != served.world.expected(old)
    served.world.point("moved:1", "prod")
    assert served.server.tokens("moved:prod") == served.world.expected(old)


def test_what_does_not_belong_here_is_refused_with_its_reason(served: Served) -> None:
    status, text = served.server.refused("stranger")
    assert status == 409 and "B-ID-1" in text and json.loads(text)["error"]["code"] == "incompatible_base"
    served.world.push("dora", use_dora=True)
    status, text = served.server.refused("dora")
    assert status == 409 and "X-ENG-2" in text and "DoRA" in text
    served.world.push("large", r=24)
    status, text = served.server.refused("large")
    assert status == 409 and "rank 24" in text and "room for rank 16" in text
    assert served.server.refused("nobody")[0] == 404
    assert served.server.post("/v1/completions", "adr_wrong", model="voice", prompt=PROMPT).status_code == 401


def test_a_chat_streams_to_the_openai_client(served: Served) -> None:
    client = OpenAI(base_url=f"{served.server.url}/v1", api_key=served.server.key)
    messages = [{"role": "user", "content": "Hello"}]
    asked: dict[str, Any] = {"messages": messages, "max_tokens": 8, "temperature": 0, "stream": True}
    texts = {}
    for name in ("voice:1", "voice:prod", "tone"):
        pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(model=name, **asked)]
        texts[name] = "".join(pieces)
        assert len(pieces) > 2
    assert texts["voice:1"] == texts["voice:prod"] != texts["tone"]


def test_vllm_itself_is_closed_to_whoever_lacks_the_gateway_s_key(served: Served) -> None:
    (port,) = re.findall(r'adreg_upstream_healthy\{upstream="127.0.0.1:(\d+)"\} 1.0', served.server.get("/metrics"))
    asked = httpx2.post(f"http://127.0.0.1:{port}/v1/completions", json={"model": "tiny", "prompt": PROMPT}, timeout=30)
    assert asked.status_code == 401


def test_every_adapter_is_counted_by_its_name(served: Served) -> None:
    before = counted(served, "tone")
    served.server.tokens("tone:1")
    assert counted(served, "tone") == before + 1


def counted(served: Served, adapter: str) -> float:
    found = re.findall(rf'adreg_requests_total\{{adapter="{adapter}",code="200"\}} (\S+)', served.server.get("/metrics"))
    return float(found[0]) if found else 0.0


def test_adapters_in_one_batch_answer_as_alone(served: Served) -> None:
    mixed_answers_are_those_alone(served, ["voice:1", "tone:1", "style:1"])


def test_the_base_among_adapters_answers_as_alone(served: Served) -> None:
    mixed_answers_are_those_alone(served, ["tiny", "voice:1", "tone:1"])


def mixed_answers_are_those_alone(served: Served, names: list[str]) -> None:
    """With both slots of the engine taken."""
    alone = {name: served.server.tokens(name) for name in names}
    asked = names * 9
    with ThreadPoolExecutor(9) as clients:
        found = list(clients.map(served.server.tokens, asked))
    assert [name for name, tokens in zip(asked, found, strict=True) if tokens != alone[name]] == []


def test_a_dead_engine_ends_adreg_with_what_it_said_last(world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    wrong = (*SERVE, "--base", "tiny", "--vllm-arg=--no-such-flag")
    with log.open("wb") as said:
        ended = subprocess.run(wrong, env=environment(world.folder / "home"), stdout=said, stderr=said, timeout=300)
    assert ended.returncode == 1
    assert "--no-such-flag" in log.read_text() and "Error: vLLM ended with status 2" in log.read_text()


def test_a_signal_while_vllm_loads_leaves_nothing(world: World) -> None:
    logs, command = world.folder / "home" / "logs", (*SERVE, "--base", "tiny")
    with subprocess.Popen(command, env=environment(world.folder / "home"), stderr=subprocess.DEVNULL) as adreg:
        until = time.monotonic() + 120
        while not list(logs.glob(f"vllm-{adreg.pid}.log")):
            assert adreg.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        time.sleep(5)
        assert ended(adreg.pid, signal.SIGTERM)
    assert not list(logs.glob(f"vllm-{adreg.pid}.log"))


def test_ctrl_c_stops_adreg_and_all_that_it_started(served: Served) -> None:
    """The last one: it ends the server of this module."""
    words = [(one.pid, one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    (pid,) = (pid for pid, said in words if said[1:4] == ["-m", "adreg", "serve"] and str(VLLM) in said)
    assert ended(pid, signal.SIGINT)
    assert not list((served.world.folder / "home" / "logs").glob(f"vllm-{pid}.log"))


def ended(pid: int, sign: signal.Signals) -> bool:
    """Whether half a minute after `sign` neither the process nor any that it started is left."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    assert len(family) > 2
    os.kill(pid, sign)
    return not psutil.wait_procs(family, timeout=30)[1]
