from __future__ import annotations

import json
import shutil

import pytest

from adreg.export.proof.agreement import compare
from adreg.export.proof.llamacpp import llamacpp
from adreg.export.proof.reference import open_reference
from adreg.export.proof.verify import Subject, different_lines, likeliest, tokenizer_lines, verify_gguf
from adreg.formats.bases.checkpoint import open_checkpoint
from tests.builders import build_checkpoint
from tests.export.merging import merge, peft_merged, retokenize, source
from tests.export.test_gguf_against_converter import LINEAR, LONGROPE, MODELS, Model, set_config
from tests.export.test_gguf_tokenizer import (
    DEEPSEEK_CODER,
    DEEPSEEK_V3,
    LLAMA3_SPLIT,
    O200K_SPLIT,
    QWEN2_SPLIT,
    TEKKEN_SPLIT,
    split,
)

# real models begin with weights near these, and a test needs more than noise in the attention
LOUD = {"initializer_range": 0.1}
# llama.cpp looks GELU up in a table of f16
CLOSE = {"gpt2": 0.004}
# the 40 tokens of a verification go beyond the length that the short factors are for
SHORT = LONGROPE | {"original_max_position_embeddings": 16}
VARIANTS = MODELS | {
    "gpt2-tied-n_inner": Model("gpt2", {"n_inner": 96}),
    "llama-head-24": Model("llama", {"rope_parameters": LINEAR, "head_dim": 24}),
    "qwen2-untied": Model("qwen2", {"tie_word_embeddings": False}, "qwen2"),
}
QUICK = (
    "gpt2-tied-n_inner",
    "llama-untied-llama3-biases-shards",
    "llama-yarn",
    "mistral",
    "phi3-longrope",
    "qwen2",
    "qwen3-yarn",
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in VARIANTS])
def test_every_architecture_does_in_llamacpp_what_the_adapter_does_on_its_base(name, tokenizer_folder, tmp_path):
    model = VARIANTS[name]
    base = Model(model.kind, model.changes | LOUD, model.pre).build(tmp_path / "base", tokenizer_folder)
    adapter = model.adapter(base, tmp_path / "adapter")
    result = merge(base, adapter, output=tmp_path / "out.gguf", quant="f32")
    found = verify_gguf(result.path, Subject(open_checkpoint(base), (source(adapter),)))
    assert found.passed, found.failures
    assert found.max_delta_logprob < CLOSE.get(model.kind, 0.001)
    assert found.adapter_effect == pytest.approx(1, abs=0.001)


def test_index_runs_as_a_llama_whose_output_rows_are_normalised(tokenizer_folder, tmp_path):
    import torch

    settings = {"tie_word_embeddings": False, "dtype": torch.float32} | LOUD
    base = build_checkpoint(tmp_path / "llama", "llama", tokenizer_folder, **settings)
    adapter = Model("llama").adapter(base, tmp_path / "adapter")
    index = shutil.copytree(base, tmp_path / "index")
    set_config(index / "config.json", architectures=["IndexForCausalLM"], model_type="index", norm_head=1)
    result = merge(index, adapter, output=tmp_path / "out.gguf", quant="f32")

    llama = peft_merged(base, adapter).eval()
    passage = open_reference(open_checkpoint(base), ()).passages()[0]
    rows = [length - 1 for length in passage.lengths]
    with torch.no_grad():
        ids = torch.tensor([passage.ids])
        # as IndexForCausalLM does: every row of the head over its L2 norm
        head = torch.nn.functional.normalize(llama.lm_head.weight)
        logits = llama.model(input_ids=ids).last_hidden_state[0] @ head.T
        plain = llama(input_ids=ids).logits[0]
    expected, wrong = (torch.log_softmax(values[rows], -1).numpy() for values in (logits, plain))
    with llamacpp(result.path, context=128) as model:
        found = likeliest(model, [passage])
    assert compare(found, expected, expected).max_delta < 0.001 < 0.1 < compare(found, wrong, wrong).max_delta
    # and without its remote code, as a verification runs it
    verified = verify_gguf(result.path, Subject(open_checkpoint(index), (source(adapter),)))
    assert verified.passed and verified.max_delta_logprob < 0.001


def test_index_without_its_normalised_head_is_a_llama(tokenizer_folder, tmp_path):
    base = build_checkpoint(tmp_path / "same", "llama", tokenizer_folder, tie_word_embeddings=False)
    plain = merge(base, output=tmp_path / "plain.gguf", name="same")
    set_config(base / "config.json", architectures=["IndexForCausalLM"], model_type="index", norm_head=0)
    assert merge(base, output=tmp_path / "index.gguf", name="same").main.sha256 == plain.main.sha256


def test_phi3_takes_its_long_factors_beyond_the_length_it_was_first_trained_on(tokenizer_folder, tmp_path):
    changes = {"rope_parameters": SHORT, "original_max_position_embeddings": 16} | LOUD
    base = Model("phi3", changes).build(tmp_path / "base", tokenizer_folder)
    result = merge(base, output=tmp_path / "out.gguf", quant="f32")
    found = verify_gguf(result.path, Subject(open_checkpoint(base), ()))
    assert found.max_delta_logprob < 0.001, found.failures


@pytest.mark.parametrize(
    ("step", "normalizer", "ignore_merges"),
    [
        (split(LLAMA3_SPLIT), None, True),
        (split(LLAMA3_SPLIT), None, False),
        (split(QWEN2_SPLIT), {"type": "NFC"}, False),
        (split(O200K_SPLIT), None, False),
        (split(TEKKEN_SPLIT), None, True),
        (split(*DEEPSEEK_CODER), None, False),
        (split(*DEEPSEEK_V3), None, False),
    ],
    ids=["llama-bpe", "dbrx", "qwen2", "gpt-4o", "tekken", "deepseek-coder", "deepseek-v3"],
)
def test_llamacpp_splits_text_as_every_pre_tokenizer_does(step, normalizer, ignore_merges, tiny_llama, tmp_path):
    folder = retokenize(shutil.copytree(tiny_llama, tmp_path / "base"), step, normalizer, ignore_merges=ignore_merges)
    result, base = merge(folder, output=tmp_path / "out.gguf"), open_checkpoint(folder)
    with llamacpp(result.path, context=64) as model:
        assert different_lines(model, open_reference(base, ()), tokenizer_lines(base)) == []


def test_a_template_that_adds_a_beginning_is_followed(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "base")
    definition = json.loads((folder / "tokenizer.json").read_text())
    begin = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    result, base = merge(folder, output=tmp_path / "out.gguf"), open_checkpoint(folder)
    reference = open_reference(base, ())
    assert reference.tokenize("Hello", True, False)[0] == 1
    with llamacpp(result.path, context=64) as model:
        assert different_lines(model, reference, tokenizer_lines(base)) == []
