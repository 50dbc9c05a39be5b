"""Every family that PEFT writes is recognised from its real files; the other tools' spellings from their names."""

from typing import Any

import pytest

from adreg.audit.findings import Severity
from adreg.formats.adapters.family import Feature, recognise
from adreg.formats.adapters.familykeys import Kind, Style
from adreg.formats.adapters.inspection import inspect_folder
from adreg.formats.safetensors import TensorView
from tests.audit.judging import audit_folder

Q: dict[str, Any] = {"target_modules": ["q_proj"]}
LORA = {**Q, "r": 2}
PROMPT: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
FAMILIES: dict[str, tuple[str, dict[str, Any], Kind, set[Feature]]] = {
    "plain": ("LoraConfig", LORA, Kind.LORA, set()),
    "rslora": ("LoraConfig", {**LORA, "use_rslora": True}, Kind.LORA, {Feature.RSLORA}),
    "dora": ("LoraConfig", {**LORA, "use_dora": True}, Kind.LORA, {Feature.DORA}),
    "lora bias": ("LoraConfig", {**LORA, "lora_bias": True}, Kind.LORA, {Feature.LORA_BIAS}),
    "saved": ("LoraConfig", {**LORA, "modules_to_save": ["lm_head"]}, Kind.LORA, {Feature.MODULES_TO_SAVE}),
    "tokens": ("LoraConfig", {**LORA, "trainable_token_indices": [1]}, Kind.LORA, {Feature.TRAINABLE_TOKENS}),
    "parameters": (
        "LoraConfig",
        {"r": 2, "target_modules": [], "target_parameters": ["q_proj.weight"]},
        Kind.LORA,
        {Feature.TARGET_PARAMETERS},
    ),
    "embedding": (
        "LoraConfig",
        {"r": 2, "target_modules": ["embed_tokens", "lm_head"]},
        Kind.LORA,
        {Feature.EMBEDDING, Feature.OUTPUT_HEAD},
    ),
    "loha": ("LoHaConfig", {**Q, "r": 2}, Kind.LOHA, set()),
    "lokr": ("LoKrConfig", {**Q, "r": 2}, Kind.LOKR, set()),
    "ia3": ("IA3Config", {**Q, "feedforward_modules": []}, Kind.IA3, set()),
    "oft": ("OFTConfig", {**Q, "r": 0, "oft_block_size": 4}, Kind.OFT, set()),
    "vera": ("VeraConfig", {**Q, "r": 2}, Kind.VERA, set()),
    "adalora": ("AdaLoraConfig", {**Q, "total_step": 10}, Kind.ADALORA, set()),
    "prompt": ("PromptTuningConfig", PROMPT, Kind.PROMPT_TUNING, set()),
    "prefix": ("PrefixTuningConfig", PROMPT, Kind.PREFIX_TUNING, set()),
    "p": ("PromptEncoderConfig", PROMPT, Kind.P_TUNING, set()),
}


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("case", FAMILIES)
def test_what_peft_saves_is_recognised_whole(tmp_path, case):
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    name, settings, kind, features = FAMILIES[case]
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes, num_key_value_heads=2, tie_word_embeddings=False))
    adapted = peft.get_peft_model(model, getattr(peft, name)(**settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    adapted.save_pretrained(tmp_path)
    family = inspect_folder(tmp_path).family
    assert (family.kind, family.features, family.styles) == (kind, frozenset(features), (Style.PEFT,))
    assert not family.foreign and not family.incomplete
    rules = {finding.rule for finding in audit_folder(tmp_path).at_least(Severity.ERR)}
    refused = {"prompt": {"K-CFG-2"}, "prefix": {"K-CFG-2"}, "p": {"K-CFG-2"}}
    assert rules == refused.get(case, set())


SPELLINGS = {
    Style.KOHYA: ("lora_unet_down_blocks_0_to_q.lora_down.weight", "lora_unet_down_blocks_0_to_q.lora_up.weight"),
    Style.DIFFUSERS: ("unet.down_blocks.0.to_q.lora_A.weight", "unet.down_blocks.0.to_q.lora_B.weight"),
    Style.MLX: ("model.layers.0.self_attn.q_proj.lora_a", "model.layers.0.self_attn.q_proj.lora_b"),
    Style.BARE: ("model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj.lora_B.weight"),
}


@pytest.mark.parametrize("style", SPELLINGS)
def test_other_tools_names_are_recognised(style):
    a, b = (
        TensorView(name, "F32", shape, memoryview(b"")) for name, shape in zip(SPELLINGS[style], ((2, 4), (4, 2)), strict=True)
    )
    family = recognise({}, {a.name: a, b.name: b})
    assert (family.kind, family.styles, family.foreign, len(family.modules)) == (Kind.LORA, (style,), (), 1)


def test_a_tensor_of_another_family_is_foreign():
    names = ("base_model.model.q.ia3_l", "base_model.model.q.lora_A.weight", "prompt_embeddings")
    views = {name: TensorView(name, "F32", (1, 1), memoryview(b"")) for name in names}
    assert recognise({"peft_type": "LORA"}, views).foreign == ("base_model.model.q.ia3_l", "prompt_embeddings")
