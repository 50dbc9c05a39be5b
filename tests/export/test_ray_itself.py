"""What Ray's own code makes of the layout and of the documented configuration: `make test-ray`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from pathlib import Path

import pytest
import yaml

from adreg.export.ray.plan import plan_layout
from adreg.export.ray.send import send_layout
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.registry.remotes.objects.url import find_store
from adreg.settings import Settings
from tests.registry.s3server import serve_s3

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv/peers/ray/bin/python"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def hashes(version):
    return {name: version.files[name].removeprefix("sha256:") for name in ("adapter_config.json", "adapter_model.safetensors")}


def documented():
    (text,) = re.findall(r"```yaml\n(# config\.yaml.*?)```", (ROOT / "docs/ray.md").read_text(), re.DOTALL)
    return yaml.safe_load(text)


def test_the_documented_configuration_is_made_for_what_is_exported():
    (said,) = documented()["applications"][0]["args"]["llm_configs"]
    assert said["lora_config"]["dynamic_lora_loading_path"].endswith(said["model_loading_config"]["model_id"])
    assert said["engine_kwargs"]["enable_lora"] and said["engine_kwargs"]["max_lora_rank"] in RANKS
    assert said["engine_kwargs"]["max_loras"] >= said["lora_config"]["max_num_adapters_per_replica"]


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="Ray is not installed: make test-ray")
def test_ray_lists_and_downloads_what_was_exported(home, tmp_path, tiny_llama, llama_adapter, other_adapter, monkeypatch):
    registry = Registry(Settings(home))
    base = registry.bases.add(str(tiny_llama), "smollm2")
    pushed = [
        registry.adapters.push(plan_push(folder), name, None, base).version
        for folder, name in ((llama_adapter, "team/one"), (other_adapter, "two"))
    ]
    with serve_s3() as s3:
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        url = f"s3://bucket-{uuid.uuid4().hex[:12]}/ray/smollm2"
        assert s3.request("PUT", url.split("/")[2])[0] == 200
        plan = plan_layout(find_store(url), registry.blobs, base, pushed)
        send_layout(find_store(url), registry.blobs, plan)
        order = {"config": documented(), "url": url, "folder": str(tmp_path / "downloads")}
        command = [str(PYTHON), str(Path(__file__).with_name("ray_child.py"))]
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": ""}
        told = subprocess.run(
            command, input=json.dumps(order), capture_output=True, text=True, timeout=200, env=environment, cwd=tmp_path
        )
    assert told.returncode == 0, told.stderr[-3000:]
    answer = json.loads(told.stdout.splitlines()[-1])
    expected = {adapter.model: hashes(adapter.version) for adapter in plan.adapters}
    assert answer["found"] == expected
    assert answer["adapters"] == {"max_num_models_per_replica": 16, "download_timeout_s": 60.0, "max_download_tries": 3}
