import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adreg.errors import FormatError, NotFoundError, PickleRefused, UnsupportedError
from adreg.formats.adapters.adapter import open_adapter
from adreg.formats.bases.checkpoint import open_checkpoint


@pytest.fixture
def copy(llama_adapter, tmp_path):
    return shutil.copytree(llama_adapter, tmp_path / "copy")


def configure(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_every_tensor_of_a_peft_adapter_is_understood(llama_adapter, other_adapter, gpt2_adapter):
    for folder in (llama_adapter, other_adapter, gpt2_adapter):
        adapter = open_adapter(folder)
        assert not adapter.foreign and not adapter.unpaired and not adapter.features
        assert 2 * len(adapter.modules) == len(adapter.file)


def test_scaling_of_every_module_is_pefts(tiny_llama, other_adapter):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), other_adapter)
    modules = open_adapter(other_adapter).modules
    assert len({module.scaling for module in modules}) == 3
    for module in modules:
        reference = model.get_submodule(f"base_model.model.{module.name}")
        assert (module.scaling, module.rank) == (reference.scaling["default"], reference.r["default"])


def test_gpt2_projections_are_conv1d(tiny_gpt2, tiny_llama):
    assert open_checkpoint(tiny_gpt2).is_conv1d("transformer.h.0.attn.c_attn")
    assert not open_checkpoint(tiny_llama).is_conv1d("model.layers.0.self_attn.q_proj")


BAD_CONFIGS: dict[str, dict[str, Any]] = {
    "K-CFG-3 zero rank": {"r": 0},
    "K-CFG-3 memory bomb": {"r": 1_000_000},
    "K-CFG-3 rank as text": {"r": "8"},
    "K-CFG-3 rank pattern": {"rank_pattern": {"q_proj": 0}},
    "K-CFG-4 negative alpha": {"lora_alpha": -1},
    "K-CFG-4 zero alpha": {"lora_alpha": 0},
    "K-CFG-4 huge alpha pattern": {"alpha_pattern": {"q_proj": 1e30}},
    "K-CFG-5 catastrophic expression": {"rank_pattern": {"(a+)+$": 4}},
    "K-CFG-5 long expression": {"rank_pattern": {"(a|b)" * 500: 4}},
    "K-CFG-5 broken expression": {"alpha_pattern": {"(": 4}},
    "K-CFG-1 flag as text": {"use_rslora": "yes"},
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_harmful_configuration_is_refused_by_its_rule(copy, case):
    with pytest.raises(FormatError) as caught:
        open_adapter(configure(copy, **BAD_CONFIGS[case]))
    assert caught.value.rule == case.split()[0]


@pytest.mark.parametrize("text", ['{"peft_type": "LORA", "lora_alpha": NaN}', '{"r": 8, "r": 4}', "[]", "{", '{"a":' * 5000])
def test_configuration_that_is_not_strict_json_is_refused(copy, text):
    (copy / "adapter_config.json").write_text(text)
    with pytest.raises(FormatError) as caught:
        open_adapter(copy)
    assert caught.value.rule == "K-CFG-1"


def test_another_adapter_type_is_refused_by_name(copy):
    with pytest.raises(UnsupportedError, match="LOHA"):
        open_adapter(configure(copy, peft_type="LOHA"))


@pytest.mark.parametrize("field", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"init_lora_weights": "pissa"},
                                   {"bias": "all"}, {"from_the_future": 7}, {"trust_remote_code": True}])  # fmt: skip
def test_what_is_more_than_plain_lora_becomes_a_named_feature(copy, field):
    (name,) = field
    assert any(feature.startswith(name) for feature in open_adapter(configure(copy, **field)).features)


def test_smuggled_and_unpaired_tensors_are_told_apart(copy):
    path = copy / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.model.layers.1.mlp.up_proj.weight"] = torch.zeros(160, 64)
    del tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, path)
    adapter = open_adapter(copy)
    assert adapter.foreign == ("base_model.model.model.layers.1.mlp.up_proj.weight",)
    assert adapter.unpaired == ("model.layers.0.self_attn.q_proj",)


def test_a_pickled_adapter_is_refused_and_not_opened(copy):
    (copy / "adapter_model.safetensors").rename(copy / "adapter_model.bin")
    with pytest.raises(PickleRefused):
        open_adapter(copy)


def test_a_missing_folder_is_not_found(tmp_path):
    with pytest.raises(NotFoundError):
        open_adapter(tmp_path / "nowhere")
