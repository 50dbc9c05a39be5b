"""The layout for Ray Serve LLM, read as Ray 2.60 reads it: names split at colons, whole folders downloaded from S3."""

from __future__ import annotations

import json
import os
import uuid
import xml.etree.ElementTree as xml
from pathlib import Path
from urllib.parse import quote

import pytest

from adreg.errors import ConflictError, IntegrityError, RemoteError
from adreg.export.ray.layout import MARKER, model_id
from adreg.export.ray.plan import plan_layout
from adreg.export.ray.send import send_layout
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.registry.remotes.objects.url import find_store
from adreg.serve.gateway.dialects import RayDialect
from adreg.serve.models.catalog import ServedModel
from adreg.settings import Settings
from tests.cli.conftest import adreg  # noqa: F401  a fixture
from tests.registry.s3server import Faults, serve_s3

S3_KEYS = "{http://s3.amazonaws.com/doc/2006-03-01/}"
FILES = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture(scope="module")
def s3_server():
    with serve_s3() as s3:
        yield s3


@pytest.fixture
def s3(s3_server, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    s3_server.door.faults = Faults()
    yield s3_server
    s3_server.door.faults = Faults()


@pytest.fixture
def bucket(s3):
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    assert s3.request("PUT", name)[0] == 200
    return name


@pytest.fixture
def registry(home, tiny_llama, llama_adapter, other_adapter):
    found = Registry(Settings(home))
    base = found.bases.add(str(tiny_llama), "tiny")
    found.adapters.push(plan_push(llama_adapter), "team/one", "prod", base)
    found.adapters.push(plan_push(other_adapter), "two", None, base)
    return found


def exported(registry, url, *names):
    store, base = find_store(url), registry.bases.get("tiny")
    versions = [version for version in registry.adapters.all() if not names or version.adapter in names]
    plan = plan_layout(store, registry.blobs, base, versions)
    send_layout(store, registry.blobs, plan)
    return plan


def listed(s3, bucket, prefix, what):
    """The names that S3 lists under `prefix`, as boto3 would see them."""
    status, answer = s3.request("GET", f"{bucket}?list-type=2&delimiter=/&prefix={quote(prefix)}")
    assert status == 200
    outer, inner = what.split("/")
    paths = [found.text or "" for found in xml.fromstring(answer).iterfind(f"{S3_KEYS}{outer}/{S3_KEYS}{inner}")]
    return {path.removeprefix(prefix).rstrip("/") for path in paths}


def test_ray_finds_every_adapter_under_the_name_that_is_told(registry, s3, bucket):
    plan = exported(registry, f"s3://{bucket}/ray/tiny")
    folders = listed(s3, bucket, "ray/tiny/", "CommonPrefixes/Prefix")
    assert {f"tiny:{folder}" for folder in folders} == {adapter.model for adapter in plan.adapters}
    for adapter in plan.adapters:
        base, _, rest = adapter.model.partition(":")
        assert base == "tiny" and listed(s3, bucket, f"ray/tiny/{rest}/", "Contents/Key") == FILES
        for name in FILES:
            _, content = s3.request("GET", quote(f"{bucket}/ray/tiny/{rest}/{name}"))
            assert content == registry.blobs.path(adapter.version.files[name]).read_bytes()
    (one,) = [adapter for adapter in plan.adapters if adapter.version.adapter == "team/one"]
    assert one.model == f"tiny:team:one:{one.version.digest[7:19]}"


def test_what_is_there_is_compared_and_not_sent_again(registry, s3, bucket):
    exported(registry, f"s3://{bucket}/tiny", "two")
    s3.door.faults.requests.clear()
    plan = exported(registry, f"s3://{bucket}/tiny")
    assert [adapter.version.adapter for adapter in plan.new] == ["team/one"]
    put = [request for request in s3.door.faults.requests if request.startswith(("PUT", "POST")) and "two:" in request]
    assert put == []
    assert exported(registry, f"s3://{bucket}/tiny").new == ()


def test_an_adapter_appears_with_its_last_file(registry, tmp_path, monkeypatch):
    place = tmp_path / "ray"
    link, sent = os.link, 0

    def cut_off(source, target, *rest, **options):
        nonlocal sent
        if sent == 2:  # the marker and the first weights
            raise OSError(28, "No space left on device")
        sent += 1
        return link(source, target, *rest, **options)

    monkeypatch.setattr(os, "link", cut_off)
    with pytest.raises(RemoteError, match="No space left"):
        exported(registry, f"file://{place}")
    assert list(place.rglob("adapter_model.safetensors")) and not list(place.rglob("adapter_config.json"))
    monkeypatch.setattr(os, "link", link)
    exported(registry, f"file://{place}")
    assert len(list(place.rglob("adapter_config.json"))) == 2


@pytest.mark.parametrize("change", [lambda data: data[:-1] + b"?", lambda data: data + b"?"])
def test_other_content_under_a_name_is_never_overwritten(registry, tmp_path, change):
    place = tmp_path / "ray"
    exported(registry, f"file://{place}")
    (weights,) = place.glob("two:*/adapter_model.safetensors")
    weights.chmod(0o644)
    weights.write_bytes(changed := change(weights.read_bytes()))
    with pytest.raises(ConflictError, match="other content"):
        exported(registry, f"file://{place}")
    assert weights.read_bytes() == changed


def test_a_file_that_ray_would_download_too_is_refused(registry, tmp_path):
    exported(registry, f"file://{tmp_path}/ray")
    (folder,) = (tmp_path / "ray").glob("two:*")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ConflictError, match=r"tokenizer\.json"):
        exported(registry, f"file://{tmp_path}/ray")


def test_a_place_holds_the_adapters_of_one_base(registry, tmp_path, tiny_gpt2, gpt2_adapter):
    exported(registry, f"file://{tmp_path}/ray")
    other = registry.bases.add(str(tiny_gpt2), "gpt2")
    pushed = registry.adapters.push(plan_push(gpt2_adapter), "three", None, other)
    with pytest.raises(ConflictError, match="holds adapters of tiny"):
        plan_layout(find_store(f"file://{tmp_path}/ray"), registry.blobs, other, [pushed.version])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photos").mkdir()
    with pytest.raises(ConflictError, match="other things"):
        exported(registry, f"file://{tmp_path}/mine")


def test_a_store_that_overwrites_in_spite_of_conditions_gets_no_adapter(registry, s3, bucket):
    s3.door.faults.ignore_conditions = True
    with pytest.raises(RemoteError, match="If-None-Match"):
        exported(registry, f"s3://{bucket}/tiny")
    assert listed(s3, bucket, "tiny/", "CommonPrefixes/Prefix") == set()


def test_an_answer_that_got_lost_is_no_conflict(registry, s3, bucket, monkeypatch):
    exported(registry, f"s3://{bucket}/tiny", "two")
    s3.door.faults.lose_answers = 1
    exported(registry, f"s3://{bucket}/tiny")
    assert len(listed(s3, bucket, "tiny/", "CommonPrefixes/Prefix")) == 2


def test_a_damaged_blob_is_not_sent(registry, tmp_path):
    (version,) = registry.adapters.versions("two")
    blob = registry.blobs.path(version.files["adapter_model.safetensors"])
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError):
        exported(registry, f"file://{tmp_path}/ray", "two")
    assert not list((tmp_path / "ray").glob("two:*"))


def test_the_gateway_asks_ray_for_what_was_exported(registry, tmp_path):
    plan = exported(registry, f"file://{tmp_path}/ray")
    for version, expected in [(adapter.version, adapter.model) for adapter in plan.adapters]:
        model = ServedModel("any:prod", "tiny", "b3:0", version.digest, version.reference)
        assert RayDialect().address({"n": 1}, model) == {"n": 1, "model": expected}
    assert RayDialect("tiny").address({}, ServedModel("base", "mine", "b3:0", None)) == {"model": "tiny"}
    with pytest.raises(ConflictError, match="splits names"):
        RayDialect("org/m:q4").address({}, model)


def test_names_are_never_ambiguous():
    digest = "sha256:" + "ab" * 32
    assert model_id("base", "a/b", digest) == "base:a:b:abababababab"
    assert model_id("base", "a", digest) == "base:a:abababababab"


def test_the_command_exports_what_vllm_takes(registry, adreg, tmp_path, llama_adapter):  # noqa: F811
    folder = tmp_path / "dora"
    folder.mkdir()
    for file in llama_adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"bias": "all"}))
    assert adreg("push", folder, "biased", "--base", "tiny").code == 0
    place = f"file://{tmp_path}/ray"
    planned = json.loads(adreg("export", "ray-layout", place, "--base", "tiny", "-n", "--json").out)
    assert not Path(tmp_path / "ray").exists() and planned["rank"] == 8
    assert [adapter["reference"] for adapter in planned["adapters"]] == ["team/one:1", "two:1"]
    assert [left["reference"] for left in planned["left_out"]] == ["biased:1"]
    told = adreg("export", "ray-layout", place, "--base", "tiny")
    assert told.code == 0 and "left out" in told.err and "2 of 2 adapters sent" in told.err
    assert (tmp_path / "ray" / MARKER).exists()
    refused = adreg("export", "ray-layout", place, "biased")
    assert refused.code == 4 and "biased:1" in refused.err
    again = adreg("export", "ray-layout", place, "team/one:prod", "-q")
    assert again.code == 0 and again.out.splitlines() == [planned["adapters"][0]["model"]]
    assert adreg("export", "ray-layout", place).code == 2
    assert adreg("export", "ray-layout", "relative/folder", "--base", "tiny").code == 2
