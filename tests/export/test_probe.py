"""The deep audit's experiment on real models: effects, no effect, NaN that SDPA hides, files that PEFT refuses."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from adreg.audit.findings import Severity
from adreg.audit.run import Speed, judge
from adreg.audit.subject import Subject
from adreg.export.proof.probe import PROMPTS, deepen, may_load
from adreg.formats.adapters.inspection import inspect_folder
from adreg.formats.bases.checkpoint import open_checkpoint


def deep(folder, base):
    return deepen(Subject(inspect_folder(folder)), open_checkpoint(base))


def behaviour(subject):
    return [(one.severity, one.message) for one in judge(subject, Speed.DEEP).findings if one.rule == "Q-BEH-1"]


@pytest.fixture
def copy(llama_adapter, tmp_path):
    return shutil.copytree(llama_adapter, tmp_path / "copy")


def rewrite(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    for name, value in tensors.items():
        change(name, value)
    save_file(tensors, path)
    return folder


def test_a_sound_adapter_changes_the_answers_as_peft_says(llama_adapter, tiny_llama):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = deep(llama_adapter, tiny_llama)
    assert [probe.prompt for probe in found.probe] == list(PROMPTS) and behaviour(found) == []
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32, attn_implementation="eager")
    adapted = PeftModel.from_pretrained(model, llama_adapter).eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(tiny_llama)(PROMPTS[0])["input_ids"]])
    with torch.no_grad():
        after = torch.log_softmax(adapted(ids).logits, -1)
        with adapted.disable_adapter():
            before = torch.log_softmax(adapted(ids).logits, -1)
    expected = torch.nn.functional.kl_div(after, before, log_target=True, reduction="none").sum(-1).mean()
    assert found.probe[0].divergence == pytest.approx(float(expected), rel=1e-4)
    assert found.probe[0].divergence > 1e-3 and not found.probe[0].has_nan


def test_an_adapter_of_zeros_changes_no_answer(copy, tiny_llama):
    found = deep(rewrite(copy, lambda name, value: value.zero_() if "lora_B" in name else None), tiny_llama)
    assert behaviour(found) == [(Severity.WARN, f"changes the answer to none of {len(PROMPTS)} prompts")]


def test_a_faint_adapter_is_not_called_one_without_effect(copy, tiny_llama):
    found = deep(rewrite(copy, lambda name, value: value.mul_(1e-3) if "lora_B" in name else None), tiny_llama)
    assert found.probe[0].divergence < 1e-6 < found.probe[0].largest_change and behaviour(found) == []


def test_nan_in_one_projection_shows(copy, tiny_llama):
    rewrite(copy, lambda name, value: value.fill_(float("nan")) if "layers.0.self_attn.q_proj.lora_B" in name else None)
    found = deep(copy, tiny_llama)
    assert behaviour(found) == [(Severity.ERR, "gives logits that are NaN")] and all(probe.has_nan for probe in found.probe)
    assert may_load(judge(Subject(inspect_folder(copy))))


def test_what_peft_refuses_is_a_finding_and_what_is_unsafe_is_not_loaded(copy, gpt2_adapter, tiny_llama):
    assert behaviour(deep(gpt2_adapter, tiny_llama))[0][0] is Severity.ERR
    path = copy / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rank_pattern": {"(a+)+$": 4}}))
    assert not may_load(judge(Subject(inspect_folder(copy))))


def test_fields_that_import_or_fetch_never_reach_peft(copy, tiny_llama):
    path = copy / "adapter_config.json"
    odd = {
        "auto_mapping": {"parent_library": "this", "base_model_class": "x"},
        "megatron_config": {"a": 1},
        "megatron_core": "this",
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), **odd, "base_model_name_or_path": "/nowhere"}))
    import sys

    found = deep(copy, tiny_llama)
    assert found.probe and not found.probe_failure and "this" not in sys.modules
