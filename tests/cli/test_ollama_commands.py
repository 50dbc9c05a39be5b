from __future__ import annotations

import json
import socket

import pytest

from adreg.formats.gguf.header import read_gguf
from tests.export.ollama_server import running_ollama
from tests.export.tiny_gguf import CHATML, OTHER_TEMPLATE, write_model


@pytest.fixture
def ollama(tmp_path, monkeypatch):
    with running_ollama(tmp_path / "served") as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url.removeprefix("http://"))
        yield server


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model.gguf", CHATML)


def test_a_model_is_created_where_ollama_host_says_and_replaced_only_when_told_to(adreg, ollama, model):
    made = adreg("ollama", "create", "lighthouse", model, "-p", "temperature=0.7", "--system", "Be brief.")
    assert made.code == 0 and not made.out and f"created lighthouse:latest in {ollama.url}" in made.err
    assert ollama.read("lighthouse")["params"] == [{"stop": ["<|im_end|>", "<|eot|>"], "temperature": 0.7}]
    again = adreg("ollama", "create", "lighthouse", model)
    assert again.code == 4 and "Hint: --force replaces it" in again.err
    told = json.loads(adreg("ollama", "create", "lighthouse", model, "--force", "--json").out)
    assert (told["name"], told["created"], told["size"]) == ("lighthouse:latest", True, model.stat().st_size)


def test_a_store_needs_no_server(adreg, model, tmp_path):
    made = adreg("ollama", "create", "ns/x:1", model, "--store", tmp_path / "store", "-q")
    assert (made.code, made.out) == (0, "ns/x:1\n")
    assert (tmp_path / "store/manifests/registry.ollama.ai/ns/x/1").is_file()
    refused = adreg("ollama", "create", "x", model, "--store", tmp_path / "store", "--host", "here")
    assert refused.code == 2


def test_where_nothing_answers_the_commands_are_printed_and_the_exit_code_says_so(adreg, model):
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{line.getsockname()[1]}"
        left = adreg("ollama", "create", "x", model, "--host", nobody)
        as_json = adreg("ollama", "create", "x", model, "--host", nobody, "--json")
    path = model.with_name("x.Modelfile")
    assert left.code == 6 and left.out == f"ollama create x:latest -f {path}\nollama run x:latest\n"
    assert f"no Ollama answers at http://{nobody}" in left.err and path.read_text().startswith("FROM ./model.gguf\n")
    assert as_json.code == 6 and json.loads(as_json.out)["created"] is False


def test_dry_run_prints_the_modelfile_and_asks_nobody(adreg, ollama, model):
    shown = adreg("ollama", "create", "x", model, "--dry-run")
    assert shown.code == 0 and shown.out.startswith(f'FROM {model}\nPARAMETER stop "<|im_end|>"\n')
    assert adreg("ollama", "create", "x", model, "-n", "--json").code == 0 and ollama.asked == []


def test_ollamas_own_choice_of_a_template_is_told(adreg, ollama, tmp_path):
    ollama.known = {OTHER_TEMPLATE: ("zephyr", "{{ .Prompt }}", ["</s>"])}
    made = adreg("ollama", "create", "x", write_model(tmp_path / "other.gguf"))
    assert made.code == 0 and "Ollama uses its own template 'zephyr'" in made.err


def test_what_cannot_be_meant_is_said_with_a_way_out(adreg, ollama, model, tmp_path):
    for words, code, told in (
        (("a b", model), 2, "is no name for an Ollama model"),
        (("x", tmp_path / "absent"), 3, "Hint: adreg merge REF --to gguf -o FOLDER makes one"),
        (("x", model, "-p", "temperature"), 2, "write NAME=VALUE"),
        (("x",), 2, "name a GGUF file, or a --modelfile that does"),
        (("x", model, "--host", "ftp://x"), 2, "no address of an Ollama server"),
        (("x", model, "--modelfile", tmp_path / "absent"), 3, "no Modelfile"),
    ):
        result = adreg("ollama", "create", *words)
        assert result.code == code and told in result.err, result
    assert not (ollama.store / "manifests").exists()


def test_an_adapter_becomes_a_model_in_one_step_and_leaves_no_file(adreg, ollama, home, tiny_llama, llama_adapter, tmp_path):
    assert adreg("base", "add", tiny_llama, "--name", "tiny").code == 0
    assert adreg("push", llama_adapter, "voice:prod", "--base", "tiny").code == 0
    made = adreg("ollama", "create", "voice", "voice:prod", "--quant", "f16")
    assert made.code == 0, made.err
    largest = max((ollama.store / "blobs").iterdir(), key=lambda blob: blob.stat().st_size)
    fields = read_gguf(largest).fields
    assert fields["general.file_type"] == 1 and fields["adreg.adapter.0.reference"] == "voice:1"
    assert not list((home / "tmp").iterdir())
    nobody = adreg("ollama", "create", "voice", "voice:prod", "--host", "127.0.0.1:1")
    assert nobody.code == 6 and "adreg merge voice:prod --to gguf" in nobody.err
