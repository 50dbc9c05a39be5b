"""Each planted fault is found by its rule, and a sound adapter on its own base has no finding."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from adreg.audit.basecard import make_card
from adreg.audit.findings import Severity, Verdict
from adreg.audit.policy import require
from adreg.errors import AuditRefused
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.bases.fingerprint import fingerprint
from tests.audit.judging import audit_folder
from tests.builders import build_adapter, build_checkpoint


def card_of(folder):
    base = open_checkpoint(folder)
    return make_card(folder.name, base, fingerprint(base)[0])


@pytest.fixture(scope="module")
def card(tiny_llama):
    return card_of(tiny_llama)


@pytest.fixture
def copy(llama_adapter, tmp_path):
    return shutil.copytree(llama_adapter, tmp_path / "copy")


def rewrite(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def key(tensors, part="lora_B", module="layers.0.self_attn.q_proj"):
    return next(name for name in tensors if module in name and part in name)


def test_sound_adapters_on_their_own_base_are_clean(llama_adapter, other_adapter, gpt2_adapter, tiny_llama, tiny_gpt2):
    for adapter, base in ((llama_adapter, tiny_llama), (gpt2_adapter, tiny_gpt2)):
        found = audit_folder(adapter, card_of(base).ids, card_of(base))
        assert found.verdict is Verdict.EXACT and not found.at_least(Severity.WARN)
    partial = audit_folder(other_adapter, card_of(tiny_llama).ids, card_of(tiny_llama))
    assert partial.verdict is Verdict.EXACT and not partial.at_least(Severity.WARN)


def smuggle(tensors):
    tensors["base_model.model.model.layers.1.mlp.up_proj.weight"] = torch.zeros(160, 64)


def smuggle_plain(tensors):
    tensors["model.embed_tokens.weight"] = torch.zeros(8, 8)


def drop_b(tensors):
    del tensors[key(tensors)]


def transpose_a(tensors):
    name = key(tensors, "lora_A")
    tensors[name] = tensors[name].T.contiguous()


def poison(tensors):
    tensors[key(tensors)][3, 2] = float("nan")


def overflow(tensors):
    tensors[key(tensors, "lora_A")][0, 0] = float("inf")


def silence(tensors):
    for name in tensors:
        if "lora_B" in name:
            tensors[name].zero_()


def half_silence(tensors):
    for name in tensors:
        if "lora_B" in name and "layers.1" in name:
            tensors[name].zero_()


def lower_rank(tensors):
    for part in ("lora_A", "lora_B"):
        name = key(tensors, part)
        tensors[name] = (tensors[name][:4] if part == "lora_A" else tensors[name][:, :4]).contiguous()


def widen(tensors):
    name = key(tensors)
    tensors[name] = torch.cat([tensors[name], tensors[name]])


def ghost_layer(tensors):
    for part in ("lora_A", "lora_B"):
        name = key(tensors, part, "layers.1.self_attn.q_proj")
        tensors[name.replace("layers.1", "layers.7")] = tensors[name].clone()


def drop_target(tensors):
    for name in list(tensors):
        if "o_proj" in name:
            del tensors[name]


def integers(tensors):
    name = key(tensors)
    tensors[name] = tensors[name].to(torch.int32)


FAULTS = {
    "K-KEY-1 block": (smuggle, smuggle_plain),
    "K-KEY-2 block": (drop_b, transpose_a),
    "Q-NAN-1 block": (poison, overflow),
    "Q-ZERO-1 err": (silence,),
    "Q-ZERO-2 warn": (half_silence,),
    "K-CFG-3 block": (lower_rank,),
    "B-SHP-2 block": (widen,),
    "B-SHP-1 block": (ghost_layer,),
    "K-KEY-4 err": (drop_target,),
    "F-DTY-1 block": (integers,),
}


@pytest.mark.parametrize(("rule", "fault"), [(rule, fault) for rule, faults in FAULTS.items() for fault in faults])
def test_a_planted_fault_is_found_by_its_rule(copy, card, rule, fault):
    rewrite(copy, fault)
    found = audit_folder(copy, card.ids, card)
    id_, severity = rule.split()
    assert (id_, severity) in {(finding.rule, finding.severity.label) for finding in found.findings}
    assert all(finding.why and finding.fix for finding in found.findings)


def test_more_than_plain_lora_is_an_error_by_name(copy, card):
    config = copy / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_qalora": True}))
    (finding,) = audit_folder(copy, card.ids, card).at_least(Severity.WARN)
    assert finding.rule == "K-CFG-8" and "use_qalora" in finding.message


def test_unreadable_files_are_one_blocking_finding(copy, card):
    path = copy / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    (finding,) = audit_folder(copy, card.ids, card).at_least(Severity.WARN)
    assert (finding.rule, finding.severity) == ("F-OFF-1", Severity.BLOCK)


@pytest.fixture
def twin(tiny_llama, tmp_path):
    return shutil.copytree(tiny_llama, tmp_path / "twin")


def change_base(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors = change(tensors) or tensors
    path.unlink()
    save_file(tensors, path, {"format": "pt"})
    return card_of(folder)


def add_noise(tensors):
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = (tensors[name].float() + 1e-3 * torch.randn(tensors[name].shape)).bfloat16()


def test_one_noisy_layer_is_the_same_architecture_and_refused(llama_adapter, card, twin):
    found = audit_folder(llama_adapter, card.ids, change_base(twin, add_noise))
    assert found.verdict is Verdict.SAME_ARCH
    with pytest.raises(AuditRefused, match="B-ID-1"):
        require("merge", "adapter", found)
    require("push", "adapter", found)


def test_a_float32_copy_has_the_same_values(llama_adapter, card, twin):
    now = change_base(twin, lambda tensors: {name: value.float() for name, value in tensors.items()})
    found = audit_folder(llama_adapter, card.ids, now)
    assert found.verdict is Verdict.SAME_VALUES
    require("serve", "adapter", found)


def test_another_head_count_is_refused_though_every_shape_fits(llama_adapter, card, twin):
    config = twin / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_attention_heads": 8, "head_dim": 16}))
    found = audit_folder(llama_adapter, card.ids, card_of(twin))
    assert found.verdict is Verdict.SAME_ARCH and "config.json" in found.findings[0].message


def test_fewer_layers_are_a_different_base(llama_adapter, card, tmp_path, tokenizer_folder):
    shorter = build_checkpoint(tmp_path / "short", "llama", tokenizer_folder, num_hidden_layers=1)
    found = audit_folder(llama_adapter, card.ids, card_of(shorter))
    assert found.verdict is Verdict.DIFFERENT and "B-SHP-1" in {finding.rule for finding in found.findings}


def test_more_layers_are_noticed_even_when_nobody_recorded_the_base(llama_adapter, tmp_path, tokenizer_folder):
    longer = build_checkpoint(tmp_path / "long", "llama", tokenizer_folder, num_hidden_layers=3)
    rules = {finding.rule for finding in audit_folder(llama_adapter, None, card_of(longer)).at_least(Severity.WARN)}
    assert rules == {"B-ID-1", "B-SHP-4", "K-CFG-10"}


def test_another_architecture_blocks_the_push(gpt2_adapter, card):
    with pytest.raises(AuditRefused):
        require("push", "adapter", audit_folder(gpt2_adapter, None, card))


def test_tokenizer_and_template_are_compared(llama_adapter, card, twin):
    (twin / "chat_template.jinja").write_text("{{ messages }}")
    vocabulary = json.loads((twin / "tokenizer.json").read_text())
    vocabulary["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (twin / "tokenizer.json").write_text(json.dumps(vocabulary))
    rules = [finding.rule for finding in audit_folder(llama_adapter, card.ids, card_of(twin)).at_least(Severity.WARN)]
    assert rules == ["T-TOK-1", "T-TPL-1"]


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_a_copied_embedding_is_told_of_and_refused_by_nobody(tmp_path):
    base = build_checkpoint(tmp_path / "untied", "llama", None, vocab_size=300, tie_word_embeddings=False)
    folder = build_adapter(base, tmp_path / "embedding", seed=5, target_modules=["q_proj", "embed_tokens"])
    report = audit_folder(folder, card_of(base).ids, card_of(base))
    assert {finding.rule for finding in report.at_least(Severity.WARN)} == {"K-KEY-6"}
    assert not report.at_least(Severity.ERR)
