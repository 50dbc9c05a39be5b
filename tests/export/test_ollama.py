from __future__ import annotations

import json
import socket

import pytest

from adreg.errors import ConflictError, NotFoundError, RemoteError, UnsupportedError, UsageError
from adreg.export.ollama.blobs import Blob
from adreg.export.ollama.create import create_in_store, create_on_server
from adreg.export.ollama.files import prepare
from adreg.export.ollama.host import server_url
from adreg.export.ollama.names import ModelName
from adreg.export.ollama.plan import OllamaRequest, plan_model
from adreg.export.ollama.server import OllamaServer
from adreg.export.ollama.store import OllamaStore
from tests.export.ollama_server import CONFIG, running_ollama
from tests.export.tiny_gguf import CHATML, OTHER_TEMPLATE, write_lora, write_model

FULL = '''FROM ./model.gguf
PARAMETER stop "<|im_end|>"
PARAMETER temperature 0.7
PARAMETER num_ctx 4096
TEMPLATE """{{ .Prompt }} & <more>"""
SYSTEM """Be brief.
你好"""
MESSAGE user Hello
MESSAGE assistant """Yes?
"""
LICENSE """Apache"""
LICENSE """MIT"""
'''


@pytest.fixture
def ollama(tmp_path):
    with running_ollama(tmp_path / "served") as server:
        yield server


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model.gguf")


class Seen:
    """A progress that adds up."""

    def __init__(self):
        self.done, self.notes = {}, []

    def task(self, title, total=None, unit=""):
        self.title = title
        self.done[title] = [0, total]
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def advance(self, amount=1, note=""):
        self.done[self.title][0] += amount
        self.notes += [note] if note else []


def served(ollama, request, **settings):
    return create_on_server(plan_model(request), OllamaServer(ollama.url), **settings)


def test_a_server_gets_the_file_by_its_digest_and_makes_what_the_modelfile_says(ollama, model):
    (model.parent / "Modelfile").write_text(FULL)
    progress = Seen()
    created = served(ollama, OllamaRequest("ns/Lighthouse:v2", model), progress=progress)
    assert (created.name, created.place, created.template) == ("ns/Lighthouse:v2", ollama.url, None)
    size = model.stat().st_size
    assert progress.done == {"hashing": [size, size], "sending": [size, size], "creating": [size, size]}
    assert progress.notes[0] == "parsing GGUF" and progress.notes[-2:] == ["writing manifest", "success"]
    found = ollama.read("ns/Lighthouse:v2")
    assert found["model"] == [model.read_bytes()] and found["template"] == [b"{{ .Prompt }} & <more>"]
    assert found["system"] == ["Be brief.\n你好".encode()] and found["license"] == [b"Apache", b"MIT"]
    assert found["params"] == [{"stop": ["<|im_end|>"], "temperature": 0.7, "num_ctx": 4096}]
    assert found["messages"] == [[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?\n"}]]


def test_a_store_holds_what_the_server_would_make(ollama, model, tmp_path):
    (model.parent / "Modelfile").write_text(FULL)
    request = OllamaRequest("lighthouse", model, adapter=write_lora(tmp_path / "lora.gguf"))
    served(ollama, request)
    store = OllamaStore(tmp_path / "store")
    create_in_store(plan_model(request), store)
    one, other = ollama.read("lighthouse"), type(ollama)(store.folder).read("lighthouse")
    config, (ours,) = one.pop(CONFIG)[0], other.pop(CONFIG)
    assert one == other and set(one) == {"model", "adapter", "template", "system", "license", "params", "messages"}
    assert config.items() <= ours.items() and (ours["model_type"], ours["file_type"]) == ("3K", "Q8_0")


def test_a_file_that_the_server_has_is_not_sent_again(ollama, model):
    served(ollama, OllamaRequest("one", model))
    ollama.asked.clear()
    served(ollama, OllamaRequest("two", model))
    assert [line for line in ollama.asked if line.startswith("POST /api/blobs")] == []
    assert ollama.read("two")["model"] == [model.read_bytes()]


def test_a_model_that_is_there_is_replaced_only_by_force(ollama, model, tmp_path):
    served(ollama, OllamaRequest("lighthouse", model))
    other = OllamaRequest("lighthouse", write_model(tmp_path / "other.gguf", seed=1))
    with pytest.raises(ConflictError, match="has a model lighthouse:latest already"):
        served(ollama, other)
    assert ollama.read("lighthouse")["model"] == [model.read_bytes()]
    served(ollama, other, force=True)
    assert ollama.read("lighthouse")["model"] != [model.read_bytes()]


@pytest.mark.parametrize(
    ("template", "written"), [(CHATML, True), (OTHER_TEMPLATE, False), (None, False)], ids=["chatml", "other", "none"]
)
def test_a_file_without_a_modelfile_gets_the_one_that_suits_it(ollama, tmp_path, template, written):
    path = write_model(tmp_path / "x.gguf", template)
    served(ollama, OllamaRequest("x", path, system="Be kind.", parameters=("temperature=0.5", "stop=STOP")))
    found = ollama.read("x")
    assert found["params"] == [{"stop": ["<|im_end|>", "<|eot|>", "STOP"], "temperature": 0.5}]
    assert found["license"] == [b"apache-2.0"] and found["system"] == [b"Be kind."] and ("template" in found) == written


def test_a_template_that_ollama_takes_by_itself_is_told(ollama, model, tmp_path):
    ollama.known = {OTHER_TEMPLATE: ("zephyr", "{{ .Prompt }}", ["</s>"]), CHATML: ("chatml", "{{ .Prompt }}", [])}
    assert served(ollama, OllamaRequest("x", model)).template == "zephyr"
    assert served(ollama, OllamaRequest("y", write_model(tmp_path / "y.gguf", CHATML))).template is None
    assert ollama.read("y")["template"] != [b"{{ .Prompt }}"]


def test_an_adapter_goes_to_a_server_that_takes_it_and_not_to_one_that_would_drop_it(ollama, model, tmp_path):
    lora = write_lora(tmp_path / "lora.gguf")
    served(ollama, OllamaRequest("x", model, adapter=lora))
    assert ollama.read("x")["adapter"] == [lora.read_bytes()]
    ollama.version = "0.34.1-rc0"
    ollama.asked.clear()
    with pytest.raises(UnsupportedError, match=r"ADAPTER in Ollama 0\.34\.1-rc0"):
        served(ollama, OllamaRequest("y", model, adapter=lora))
    assert ollama.asked == ["GET /api/version"]
    with pytest.raises(UsageError, match="is for qwen2"):
        plan_model(OllamaRequest("x", model, adapter=write_lora(tmp_path / "q.gguf", "qwen2")))


def test_what_the_server_refuses_is_said_in_its_words(ollama, model):
    ollama.faults.error = "quantisation\x1b[31m failed"
    with pytest.raises(RemoteError, match=r"quantisation�\[31m failed"):
        served(ollama, OllamaRequest("x", model))
    assert not ollama.manifest("x").exists()
    blob = Blob(model, f"sha256:{'0' * 64}", model.stat().st_size)
    with pytest.raises(RemoteError, match="digest mismatch"):
        OllamaServer(ollama.url).send(blob)


def test_an_answer_that_is_none_of_ollamas_is_no_success(ollama, model):
    ollama.faults.cut = 2
    with pytest.raises(RemoteError, match="stopped after 'validating GGUF model'"):
        served(ollama, OllamaRequest("x", model))
    ollama.faults.cut, ollama.faults.garbage = None, b"{]\n"
    with pytest.raises(RemoteError, match="makes no sense"):
        served(ollama, OllamaRequest("x", model), force=True)
    ollama.faults.garbage = b"x" * (1 << 20) + b"y"
    with pytest.raises(RemoteError, match="a line of more than"):
        served(ollama, OllamaRequest("x", model), force=True)
    ollama.faults.redirect = "http://elsewhere.example/"
    with pytest.raises(RemoteError, match=r"redirects to http://elsewhere\.example/"):
        OllamaServer(ollama.url).version()
    ollama.faults.redirect = None
    with pytest.raises(RemoteError, match="404 page not found"):
        OllamaServer(f"{ollama.url}/proxied").version()


def test_a_proxy_is_not_asked_for_this_machine(ollama, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert OllamaServer(ollama.url).version() == "0.33.0"


def test_where_nothing_answers_the_modelfile_and_the_commands_are_left(model):
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        assert OllamaServer(f"http://127.0.0.1:{line.getsockname()[1]}").version() is None
    prepared = prepare(plan_model(OllamaRequest("ns/x:1", model, system="Be kind.")))
    path = model.with_name("x.Modelfile")
    assert prepared.commands == (f"ollama create ns/x:1 -f {path}", "ollama run ns/x:1")
    again = plan_model(OllamaRequest("ns/x:1", modelfile=path))
    assert again.modelfile.system == "Be kind." and again.model.path.samefile(model)
    assert prepare(again).modelfile == path
    with pytest.raises(ConflictError, match="says something else"):
        prepare(plan_model(OllamaRequest("ns/x:1", model, system="Be rude.")))


def test_only_a_modelfile_that_names_the_file_counts_as_its_own(model):
    (model.parent / "Modelfile").write_text("FROM ./other.gguf\nSYSTEM x\n")
    assert plan_model(OllamaRequest("x", model)).modelfile.system is None
    model.with_suffix(".Modelfile").write_text("FROM ./model.gguf\nSYSTEM y\n")
    plan = plan_model(OllamaRequest("x", model))
    assert plan.modelfile.system == "y" and plan.written == model.with_suffix(".Modelfile")
    assert json.loads(json.dumps(plan.describe()))["bytes"] == model.stat().st_size


def test_what_is_no_model_of_one_file_is_refused(model, tmp_path):
    lora = write_lora(tmp_path / "lora.gguf")
    with pytest.raises(UsageError, match="is a GGUF adapter, not model"):
        plan_model(OllamaRequest("x", lora))
    with pytest.raises(UsageError, match="is a GGUF model, not adapter"):
        plan_model(OllamaRequest("x", model, adapter=model))
    with pytest.raises(NotFoundError, match="absent"):
        plan_model(OllamaRequest("x", tmp_path / "absent.gguf"))
    (tmp_path / "M").write_text("FROM llama3\n")
    with pytest.raises(NotFoundError, match="llama3"):
        plan_model(OllamaRequest("x", modelfile=tmp_path / "M"))
    with pytest.raises(UsageError, match="nothing to create a model from"):
        plan_model(OllamaRequest("x"))


@pytest.mark.parametrize(
    ("text", "path", "shown"),
    [
        ("m", "registry.ollama.ai/library/m/latest", "m:latest"),
        ("M_1.5:7b-q4_K", "registry.ollama.ai/library/M_1.5/7b-q4_K", "M_1.5:7b-q4_K"),
        ("ns/m", "registry.ollama.ai/ns/m/latest", "ns/m:latest"),
        ("h:11/ns/m:t", "h:11/ns/m/t", "h:11/ns/m:t"),
        ("8" * 80 + "/" + "8" * 80 + ":" + "8" * 80, f"registry.ollama.ai/{'8' * 80}/{'8' * 80}/{'8' * 80}", None),
    ],
)
def test_names_are_ollamas(text, path, shown):
    name = ModelName.parse(text)
    assert str(name.path) == path and str(name) == (shown or text)


BAD_NAMES = [
    "",
    ":",
    "m:",
    ":t",
    "/m",
    "a/",
    "a//m",
    "../m",
    "..",
    ".m",
    "-m",
    "a.b/m",
    "m:t:u",
    "m t",
    "m@sha256:0",
    "http://h/n/m",
]


@pytest.mark.parametrize("text", [*BAD_NAMES, "a/b/c/d", "m" * 81, "mé", "m\n", "n/..", "n/m:..", "h/../m"])
def test_what_ollama_takes_for_no_name_is_none(text):
    with pytest.raises(UsageError, match="is no name"):
        ModelName.parse(text)


# the table of envconfig/config_test.go (TestHost, TestConnectableHost), but for ports that Ollama replaces by its own
HOSTS = {
    "": "127.0.0.1:11434", "1.2.3.4": "1.2.3.4:11434", ":1234": "127.0.0.1:1234", "1.2.3.4:1234": "1.2.3.4:1234",
    "example.com": "example.com:11434", "example.com:1234": "example.com:1234", "[::1]": "[::1]:11434", "[::]": "[::1]:11434",
    "::1": "[::1]:11434", "[::1]:1337": "[::1]:1337", " 1.2.3.4 ": "1.2.3.4:11434", '"1.2.3.4"': "1.2.3.4:11434",
    ' " 1.2.3.4 " ': "1.2.3.4:11434", "'1.2.3.4'": "1.2.3.4:11434", "http://1.2.3.4": "1.2.3.4:80",
    "http://1.2.3.4:4321": "1.2.3.4:4321", "0.0.0.0": "127.0.0.1:11434", "0.0.0.0:1234": "127.0.0.1:1234",
    "[::]:1234": "[::1]:1234",
}  # fmt: skip


def test_every_form_of_ollama_host_is_understood():
    assert {text: server_url(text) for text in HOSTS} == {text: f"http://{place}" for text, place in HOSTS.items()}
    assert server_url("https://1.2.3.4") == "https://1.2.3.4:443"
    assert server_url("https://example.com/ollama") == "https://example.com:443/ollama"
    assert server_url("https://0.0.0.0:4321") == "https://127.0.0.1:4321"
    for text in (":66000", ":-1", "host:x", "ftp://host", "user:pw@host:1"):
        with pytest.raises(UsageError):
            server_url(text)
