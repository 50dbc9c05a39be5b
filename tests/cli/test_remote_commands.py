"""Two homes and a real server between them, by the command line alone."""

import json
import re
import socket
import subprocess
import sys
import time

import pytest

from adreg.registry.registry import Registry
from adreg.settings import Settings
from tests.registry.http_tools import files_under, make_adapter, push, served
from tests.registry.hubserver import TOKEN, running_hub


@pytest.fixture
def other(tmp_path):
    return Registry(Settings(tmp_path / "other"))


@pytest.fixture
def url(other):
    with served(other.settings.home) as found:
        yield found


def test_push_pull_and_sync_with_a_remote(adreg, other, url, tmp_path):
    folder = make_adapter(tmp_path / "a")
    assert adreg("remote", "add", "lab", url).code == 0
    sent = adreg("push", folder, "team/voice:prod", "--to", "lab", "--json")
    assert sent.code == 0 and json.loads(sent.out)["sent_as"] == "team/voice:1"
    assert [alias.name for alias in other.adapters.aliases("team/voice")] == ["prod"]
    push(other, make_adapter(tmp_path / "b", 1), "style", "v1")
    pulled = adreg("pull", "lab/style:v1", tmp_path / "out", "--json")
    assert json.loads(pulled.out)["aliases"] == ["v1"] and files_under(tmp_path / "out") == files_under(tmp_path / "b")
    push(other, make_adapter(tmp_path / "c", 2), "style")
    plan = adreg("sync", "lab", "--dry-run")
    assert plan.out.split() == ["fetch", "style:2", "1.0", "kB"] or "fetch  style:2" in plan.out
    assert adreg("sync", "lab", "-q").out == "lab\n" and adreg("sync", "lab", "--dry-run").out == ""
    assert adreg("show", "style:2", "-q").out == "style:2\n"


def test_a_stored_version_is_sent_and_an_alias_that_moved_here_is_moved_there(adreg, other, url, tmp_path):
    adreg("remote", "add", "lab", url)
    adreg("push", make_adapter(tmp_path / "a"), "voice:prod", "--to", "lab")
    adreg("push", make_adapter(tmp_path / "b", 1), "voice:prod")
    assert adreg("push", "voice:prod", "--to", "lab").code == 0
    assert [alias.number for alias in other.adapters.aliases("voice")] == [2]


def test_a_pulled_alias_never_moves_one_that_is_here(adreg, other, url, tmp_path):
    adreg("remote", "add", "lab", url)
    push(other, make_adapter(tmp_path / "a"), alias="prod")
    adreg("push", make_adapter(tmp_path / "b", 1), "voice:prod")
    pulled = adreg("pull", "lab/voice:prod")
    assert pulled.code == 0 and "adreg alias set voice:2 prod" in pulled.err
    assert adreg("show", "voice:prod", "-q").out == "voice:1\n"


def test_errors_have_their_exit_codes(adreg, other, url, tmp_path):
    folder = make_adapter(tmp_path / "a")
    adreg("remote", "add", "lab", url)
    adreg("remote", "add", "dead", "http://127.0.0.1:9")
    cases: list[tuple[list[object], int]] = [
        (["push", folder], 2), (["push", folder, "voice", "--to", "nowhere"], 3), (["pull", "lab/nothing"], 3),
        (["remote", "add", "lab", "http://other"], 4), (["remote", "add", "x", "http://me:pw@host"], 2),
        (["sync", "nowhere"], 3),
        (["sync", "lab", "--aliases", "mine"], 2), (["remote", "rm", "nowhere"], 3), (["registry", "token", "revoke", "x"], 3),
        (["registry", "serve", "--host", "0.0.0.0"], 2), (["registry", "token", "create", "--scope", "god"], 2),
        (["pull", "voice", "--name", "x"], 2), (["sync", "dead"], 6),
    ]  # fmt: skip
    for words, code in cases:
        assert adreg(*words).code == code, words


def test_tokens_are_kept_out_of_sight(adreg, home, other, url, tmp_path, monkeypatch):
    _, good = other.tokens.create("push")
    folder = make_adapter(tmp_path / "a")
    _stdin(monkeypatch, good[:-1] + "x")
    assert "checksum" in adreg("remote", "add", "lab", url, "--token-stdin").err
    adreg("remote", "add", "lab", url)
    refused = adreg("push", folder, "voice", "--to", "lab")
    assert refused.code == 6 and "ADREG_TOKEN" in refused.err
    _stdin(monkeypatch, good + "\n")
    assert adreg("remote", "add", "lab", url, "--token-stdin").code == 0
    assert adreg("push", "voice", "--to", "lab").code == 0
    holding = [path for path, content in files_under(home).items() if good.encode() in content]
    assert holding == ["tokens.json"] and (home / "tokens.json").stat().st_mode & 0o777 == 0o600
    assert adreg("remote", "rm", "lab").code == 0 and good not in (home / "tokens.json").read_text()


def _stdin(monkeypatch, text):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_a_token_is_printed_once(adreg):
    made = adreg("registry", "token", "create", "--scope", "push", "--namespace", "team", "--expires", "30d")
    assert re.fullmatch(r"adr_[0-9a-f]{72}\n", made.out)
    (listed,) = json.loads(adreg("registry", "token", "ls", "--json").out)
    assert (listed["scope"], listed["namespace"], listed["state"]) == ("push", "team", "active")
    assert made.out.strip() not in json.dumps(listed)
    assert adreg("registry", "token", "revoke", listed["id"]).code == 0
    assert json.loads(adreg("registry", "token", "ls", "--json").out)[0]["state"] == "revoked"


def test_the_server_serves_until_it_is_told_to_stop(home, tmp_path):
    push(Registry(Settings(home)), make_adapter(tmp_path / "a"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "adreg", "registry", "serve", "--port", str(port)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None and f"http://127.0.0.1:{port}" in server.stderr.readline()
            from adreg.registry.remotes.http.remote import HttpRemote

            assert HttpRemote(f"http://127.0.0.1:{port}").names() == ["voice"]
        finally:
            started = time.monotonic()
            server.terminate()
            server.wait(20)
    assert time.monotonic() - started < 15


def test_the_hub_takes_and_gives_adapters(adreg, process, tmp_path):
    """Each command in a process of its own: huggingface_hub reads HF_ENDPOINT once."""
    folder, weights = make_adapter(tmp_path / "a", width=3000), "adapter_model.safetensors"
    with running_hub() as hub:

        def online(*words):
            return process(*words, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")

        sent = online("push", folder, "voice", "--to", "hf:Team/My-Voice", "--json")
        assert sent.code == 0, sent.err
        commit = json.loads(sent.out)["commit"]
        pulled = online("pull", "hf:Team/My-Voice", tmp_path / "out", "--json")
        assert pulled.code == 0, pulled.err
        assert online("pull", "hf:Team/Missing").code != 0
    found = json.loads(pulled.out)
    assert (found["name"], found["origin"]) == ("team/my-voice", f"hf:Team/My-Voice@{commit}")
    assert (tmp_path / "out" / weights).read_bytes() == (folder / weights).read_bytes()
    assert "library_name: peft" in (tmp_path / "out" / "README.md").read_text()
    assert adreg("show", "team/my-voice", "-q").out == "team/my-voice:1\n"
