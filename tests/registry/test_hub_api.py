from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from adreg.errors import NotFoundError
from adreg.registry.push import plan_push
from adreg.registry.server.hub_api import Catalog, HubFile, HubRepo, hub_revision, hub_router

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class FolderCatalog:
    """Versions as folders `<name>/<number>`; the aliases of all names in one table."""

    root: Path
    aliases: dict[str, int]

    def find(self, repo_id: str, revision: str) -> HubRepo:
        meant = hub_revision(repo_id, revision)
        if not (self.root / meant.name / "1").is_dir():
            raise NotFoundError("adapter", repo_id)
        versions = {int(path.name): path for path in (self.root / meant.name).iterdir()}
        for number in sorted(versions, reverse=True):
            files = {path.name: _file(path) for path in versions[number].iterdir()}
            commit = hashlib.sha256(
                json.dumps({name: file.sha256 for name, file in sorted(files.items())}).encode()
            ).hexdigest()
            wanted = meant.version or self.aliases.get(meant.alias or "")
            if (meant.digest or "").endswith(commit[:40]) or wanted == number or meant == hub_revision(repo_id, "main"):
                return HubRepo(repo_id, commit[:40], files, "2026-11-21T08:00:00+00:00", ("test",))
        raise NotFoundError("version", f"{repo_id}@{revision}")


def _file(path: Path) -> HubFile:
    return HubFile(path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest(), path)


@dataclass(frozen=True)
class RegistryCatalog:
    """The versions of a registry."""

    home: Path

    def find(self, repo_id: str, revision: str) -> HubRepo:
        from adreg.registry.registry import Registry
        from adreg.settings import Settings

        found = Registry(Settings(self.home))  # its own connection: SQLite's belong to one thread
        version = found.adapters.resolve(hub_revision(repo_id, revision))
        paths = {name: found.blobs.path(digest) for name, digest in version.files.items()}
        files = {
            name: HubFile(path.stat().st_size, version.files[name].removeprefix("sha256:"), path)
            for name, path in paths.items()
        }
        return HubRepo(repo_id, version.digest.removeprefix("sha256:")[:40], files, version.created_at)


@contextmanager
def serving(catalog: Catalog) -> Iterator[str]:
    """The hub API of `catalog` alone on a loopback port: its address."""
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.include_router(hub_router(catalog))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, llama_adapter):
    """`team/voice` in two versions, `voice` and `team/tree` in one; beside them a secret."""
    root = tmp_path_factory.mktemp("shelf")
    for name in ("team/voice/1", "team/voice/2", "voice/1", "team/tree/1"):
        shutil.copytree(llama_adapter, root / name)
    (root / "team/voice/2/README.md").write_text("# second\n")
    (root / "secret").write_text("TOP-SECRET")
    return root


@pytest.fixture(scope="module")
def address(shelf):
    with serving(FolderCatalog(shelf, {"prod": 1})) as address:
        yield address


def client(address, home, code):
    """Run `code` with the unmodified libraries against `address`: what it puts into `out`."""
    keep = {"PATH", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTHONPATH"}
    environment = {name: value for name, value in os.environ.items() if name in keep}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    program = f"import json, sys\nout = {{}}\n{code}\nprint(json.dumps(out))"
    ran = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program], env=environment, text=True, capture_output=True
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


READ = """
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

def digests(folder):
    return {path.name: digest(path) for path in Path(folder).iterdir()}

def digest(path):
    import hashlib
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()

def error_of(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__

api = HfApi()
for name in ("team/voice", "voice", "team/tree"):
    out[name] = digests(snapshot_download(name))
for revision in ("v1", "1", "prod", "v2", "main", api.model_info("team/voice", revision="1").sha):
    out[revision[:8]] = digests(snapshot_download("team/voice", revision=revision))
info = api.model_info("team/voice", files_metadata=True)
files = sorted([each.rfilename, each.size, each.lfs.sha256] for each in info.siblings)
out["info"] = [info.id, info.sha, files, info.library_name]
out["listed"] = sorted(api.list_repo_files("team/voice"))
out["read"] = Path(hf_hub_download("team/voice", "README.md")).read_text()
out["local"] = digest(hf_hub_download("team/voice", "README.md", local_dir=LOCAL))
out["exists"] = [api.file_exists("team/voice", name) for name in ("README.md", "none.json")] + [api.repo_exists("team/none")]
out["verified"] = api.verify_repo_checksums("team/voice").mismatches
out["errors"] = [
    error_of(lambda: hf_hub_download("team/voice", "tokenizer.json")),
    error_of(lambda: hf_hub_download("team/voice", "x.json", subfolder="deep")),
    error_of(lambda: hf_hub_download("team/voice", "README.md", revision="v9")),
    error_of(lambda: hf_hub_download("team/none", "README.md")),
    error_of(lambda: snapshot_download("none")),
    error_of(lambda: api.model_info("team/voice", revision="nobody")),
    error_of(lambda: list(api.list_repo_tree("team/voice", path_in_repo="additional_chat_templates"))),
    error_of(lambda: api.model_info("Team/Voice")),
]
"""


def test_the_hub_client_reads_every_byte_by_every_kind_of_revision(address, shelf, tmp_path):
    out = client(address, tmp_path / "hf", READ.replace("LOCAL", repr(str(tmp_path / "local"))))

    def digests(folder):
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}

    one, two = digests(shelf / "team/voice/1"), digests(shelf / "team/voice/2")
    assert one != two and out["team/voice"] == out["v2"] == out["main"] == two
    assert out["v1"] == out["1"] == out["prod"] == out["voice"] == out["team/tree"] == one
    name, commit, files, library = out["info"]
    assert (name, library, len(commit)) == ("team/voice", "peft", 40) and out["listed"] == sorted(two)
    assert {name: digest for name, _, digest in files} == two
    assert {name: size for name, size, _ in files} == {
        path.name: path.stat().st_size for path in (shelf / "team/voice/2").iterdir()
    }
    assert out["read"] == "# second\n" and out["local"] == two["README.md"]
    assert out["exists"] == [True, False, False] and out["verified"] == []
    kinds = ["RemoteEntryNotFoundError"] * 2 + ["RevisionNotFoundError"] + ["RepositoryNotFoundError"] * 2
    assert out["errors"] == [*kinds, "RevisionNotFoundError", "RemoteEntryNotFoundError", "RepositoryNotFoundError"]


PEFT = """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

def logits(name, **choices):
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), name, **choices)
    with torch.inference_mode():
        return model(torch.arange(1, 9)[None]).logits

folder = logits(FOLDER)
out["equal"] = [torch.equal(folder, logits(*name)) for name in (("team/voice",), ("voice",))]
out["pinned"] = torch.equal(folder, logits("team/voice", revision="v1"))
out["does something"] = not torch.equal(folder, AutoModelForCausalLM.from_pretrained(BASE)(torch.arange(1, 9)[None]).logits)
"""


def test_peft_loads_adapters_by_name_and_they_compute_the_same(address, tmp_path, tiny_llama, llama_adapter):
    code = PEFT.replace("BASE", repr(str(tiny_llama))).replace("FOLDER", repr(str(llama_adapter)))
    assert client(address, tmp_path / "hf", code) == {"equal": [True, True], "pinned": True, "does something": True}


def test_adreg_itself_fetches_from_it_with_every_checksum(address, shelf, tmp_path):
    code = f"""
from pathlib import Path
from adreg.registry.hub.fetch import fetch
from adreg.registry.hub.client import Hub
from adreg.registry.hub.reference import parse_hub_reference
copy = fetch(parse_hub_reference("hf:team/voice@v1"), Path({str(tmp_path / "copy")!r}), Hub({address!r}))
out["files"], out["skipped"] = copy.files, copy.skipped
"""
    out = client(address, tmp_path / "hf", code)
    for path in (shelf / "team/voice/1").iterdir():
        assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()
    assert out["skipped"] == [] and set(out["files"]) == {path.name for path in (shelf / "team/voice/1").iterdir()}


def test_the_real_registry_is_a_catalog(registry, home, llama_adapter, tmp_path):
    registry.adapters.push(plan_push(llama_adapter), "team/voice", "prod", None)
    code = """
from pathlib import Path
from huggingface_hub import snapshot_download
for revision in (None, "prod", "v1"):
    out[revision or ""] = sorted(path.name for path in Path(snapshot_download("team/voice", revision=revision)).iterdir())
"""
    with serving(RegistryCatalog(home)) as address:
        out = client(address, tmp_path / "hf", code)
    assert out[""] == out["prod"] == out["v1"] == sorted(path.name for path in llama_adapter.iterdir())


def ask(address, method, path, **headers):
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def test_ranges_and_heads_are_exact(address, shelf):
    path, raw = f"/team/voice/resolve/main/{WEIGHTS}", (shelf / "team/voice/2" / WEIGHTS).read_bytes()
    for asked, part in (("bytes=10-19", raw[10:20]), ("bytes=-7", raw[-7:]), (f"bytes={len(raw) - 3}-", raw[-3:])):
        status, headers, body = ask(address, "GET", path, Range=asked)
        assert (status, body, headers["Content-Length"]) == (206, part, str(len(part)))
    assert ask(address, "GET", path, Range=f"bytes={len(raw)}-")[0] == 416
    status, headers, body = ask(address, "HEAD", path)
    assert (status, body, headers["Content-Length"], headers["X-Linked-Size"]) == (200, b"", str(len(raw)), str(len(raw)))
    assert headers["ETag"] == f'"{hashlib.sha256(raw).hexdigest()}"' and len(headers["X-Repo-Commit"]) == 40
    assert headers["Content-Type"] == "application/octet-stream" and headers["X-Content-Type-Options"] == "nosniff"


TRAVERSALS = [
    "..%2f..%2fsecret",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/secret",
    "../../secret",
    "..%5c..%5csecret",
]
TRAVERSALS += [
    "..%252f..%252fsecret",
    "..%c0%af..%c0%afsecret",
    "/etc/passwd",
    "//etc/passwd",
    "%2fetc%2fpasswd",
    "..\\..\\secret",
]
TRAVERSALS += [
    "README.md%00",
    "%00",
    "README.md/",
    "README.md/../README.md",
    "./README.md",
    "..",
    ".",
    "",
    "a" * 5000,
    "%ff%fe",
]
PLACES = ["/team/voice/resolve/main/{}", "/team/{}/resolve/main/README.md", "/{}/resolve/main/README.md", "/api/models/{}"]
PLACES += [
    "/team/voice/resolve/{}/README.md",
    "/api/models/team/voice/tree/main/{}",
    "/api/models/team/voice/revision/{}",
    "/{}",
]


def test_no_path_leads_outside_a_versions_own_files(address):
    refused = 0
    for place in PLACES:
        for name in TRAVERSALS:
            with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=10) as line:
                line.sendall(f"GET {place.format(name)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode("latin-1"))
                answer = b"".join(iter(lambda: line.recv(65536), b""))
            status, fields = answer.split(b" ", 2)[1], answer.partition(b"\r\n\r\n")[0]
            assert status in (b"404", b"400"), (place, name, answer[:200])
            assert b"SECRET" not in answer and b"root:" not in answer and fields.count(b"\r\n") < 12
            refused += 1
    assert refused == len(PLACES) * len(TRAVERSALS) > 150


def test_only_reading_and_only_these_paths(address):
    assert ask(address, "POST", "/api/models/team/voice")[0] == 405
    assert ask(address, "PUT", "/team/voice/resolve/main/README.md")[0] == 405
    for path in ("/", "/api/models", "/api/datasets/team/voice", "/datasets/team/voice/resolve/main/x", "/team/voice", "/docs"):
        assert ask(address, "GET", path)[0] == 404, path


def test_a_damaged_file_is_not_served(tmp_path, llama_adapter):
    shutil.copytree(llama_adapter, tmp_path / "voice" / "1")
    kept = FolderCatalog(tmp_path, {}).find("voice", "main")

    class Remembering:
        def find(self, repo_id: str, revision: str) -> HubRepo:
            return kept

    with (tmp_path / "voice" / "1" / WEIGHTS).open("r+b") as file:
        file.truncate(100)
    with serving(Remembering()) as address:
        assert ask(address, "GET", f"/voice/resolve/main/{WEIGHTS}")[0] == 500
        assert ask(address, "GET", "/voice/resolve/main/adapter_config.json")[0] == 200


@pytest.mark.parametrize("revision", ["../x", "a/b", "", "V1", "a" * 97, "%2e", "prod\n", "..", "-x"])
def test_what_cannot_be_a_revision_is_not_looked_up(revision):
    with pytest.raises(NotFoundError):
        hub_revision("team/voice", revision)
