"""`adreg key`, and a server whose registry gets its first key and loses its last one while it runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.builders import build_checkpoint
from tests.cli.conftest import Result
from tests.registry.http_tools import files_under

Command = Callable[..., Result]


def test_a_key_is_printed_once(adreg: Command, home: Path) -> None:
    limits = ("--expires", "30d", "--rpm", 60, "--tpm", 9000, "--concurrent", 2)
    made = adreg("key", "create", "team-a", "--models", "demo/*", "--models", "voice:prod", *limits)
    assert re.fullmatch(r"adr_[0-9a-f]{72}\n", made.out) and "demo/*, voice:prod" in made.err
    (listed,) = json.loads(adreg("key", "ls", "--json").out)
    assert (listed["name"], listed["state"], listed["models"]) == ("team-a", "active", ["demo/*", "voice:prod"])
    assert (listed["requests_per_minute"], listed["tokens_per_minute"], listed["concurrent"]) == (60, 9000, 2)
    assert "demo/*, voice:prod" in adreg("key", "ls").out and adreg("key", "ls", "-q").out == "team-a\n"
    assert adreg("key", "revoke", "team-a").code == 0
    again = json.loads(adreg("key", "create", "team-a", "--json").out)
    assert again["models"] == ["*"] and again["key"] != made.out.strip()
    assert [key["state"] for key in json.loads(adreg("key", "ls", "--json").out)] == ["revoked", "active"]
    secrets = (made.out.strip().encode(), again["key"].encode())
    assert not [path for path, content in files_under(home).items() if any(secret in content for secret in secrets)]


def test_errors_have_their_exit_codes(adreg: Command) -> None:
    adreg("key", "create", "ci")
    cases: list[tuple[list[object], int]] = [
        (["key", "create", "ci"], 4), (["key", "create", "two words"], 2), (["key", "create", "a", "--expires", "soon"], 2),
        (["key", "create", "a", "--rpm", "0"], 2), (["key", "create", "a", "--models", ""], 2),
        (["key", "revoke", "nobody"], 3),
    ]  # fmt: skip
    for words, code in cases:
        assert adreg(*words).code == code, words


def test_whoever_others_can_reach_needs_a_key_that_was_made(adreg: Command) -> None:
    words = ("serve", "--base", "nobody", "--host", "0.0.0.0")
    refused = adreg(*words)
    assert refused.code == 2 and "adreg key create" in refused.err
    adreg("key", "create", "ci")
    adreg("key", "revoke", "ci")
    assert adreg(*words).code == 3, "now it is the base that is not there"


@pytest.fixture
def url(adreg: Command, home: Path, tmp_path: Path, tokenizer_folder: Path) -> Iterator[str]:
    """`adreg serve` in a process of its own."""
    base = build_checkpoint(tmp_path / "base", "llama", tokenizer_folder)
    adreg("base", "add", base, "--name", "tiny")
    words = [sys.executable, "-m", "adreg", "serve", "--base", "tiny", "--port", "0"]
    with subprocess.Popen(words, env=os.environ, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        lines: list[str] = []
        while not any("every program on this machine may ask" in line for line in lines):
            lines.append(server.stderr.readline())
            assert lines[-1], "".join(lines)
        yield re.findall(r"http://\S+(?=/v1)", "".join(lines))[0]
        server.terminate()
        server.communicate(timeout=30)


def test_keys_count_within_seconds_and_the_user_s_own_commands_need_none(adreg: Command, url: str) -> None:
    def status(secret: str) -> int:
        return httpx2.get(f"{url}/v1/models", headers={"authorization": f"Bearer {secret}"}).status_code

    def becomes(secret: str, wanted: int) -> None:
        deadline = time.monotonic() + 10
        while (found := status(secret)) != wanted:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)

    assert status("none") == 200
    secret = adreg("key", "create", "ci").out.strip()
    becomes("none", 401)
    assert status(secret) == 200
    adreg("key", "revoke", "ci")
    becomes(secret, 401)
    assert status("none") == 401
    (server,) = json.loads(adreg("ps", "--json").out)
    assert (server["url"], server["state"]) == (url, "up")
