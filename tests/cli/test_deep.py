"""`adreg audit --deep` from the command line."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file


@pytest.fixture
def copy(llama_adapter, tmp_path):
    return shutil.copytree(llama_adapter, tmp_path / "copy")


def test_deep_finds_nan_logits_needs_a_base_and_loads_nothing_unsafe(adreg, copy, tiny_llama):
    path = copy / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[next(name for name in tensors if "q_proj.lora_B" in name)].fill_(float("nan"))
    save_file(tensors, path)
    assert adreg("audit", str(copy), "--deep").code == 2
    found = adreg("audit", str(copy), "--base", str(tiny_llama), "--deep", "--json")
    rules = {finding["rule"] for finding in json.loads(found.out)["findings"]}
    assert found.code == 5 and {"Q-NAN-1", "Q-BEH-1"} <= rules
    config = copy / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rank_pattern": {"(a+)+$": 4}}))
    unsafe = adreg("audit", str(copy), "--base", str(tiny_llama), "--deep")
    assert unsafe.code == 5 and "the base is not loaded" in unsafe.err and "Q-BEH-1" not in unsafe.err
