from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from adreg.errors import FormatError, UnsupportedError, UsageError
from adreg.export.plan import plan_merge
from tests.builders import build_adapter, build_checkpoint
from tests.export.folding import UNTYING, build_case, load_model, peft_model
from tests.export.merging import merge, request, source

SAVES_EMBEDDINGS = pytest.mark.filterwarnings("ignore:(Setting `save_embedding_layers`|Model has `tie_word_embeddings=True`)")


@pytest.fixture
def changed(llama_adapter, tmp_path):
    """A function that copies the adapter with other tensors or another configuration."""

    def change(tensors=None, **config):
        folder = shutil.copytree(llama_adapter, tmp_path / "changed")
        path = folder / "adapter_model.safetensors"
        save_file((tensors or dict)(load_file(path)), path)
        settings = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(settings | config))
        return folder

    return change


def renamed(old, new):
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"init_lora_weights": "pissa"}, UnsupportedError, "init_lora_weights=pissa"),
        ({"use_qalora": True}, UnsupportedError, "use_qalora"),
        ({"tensors": renamed("layers.1.mlp.up_proj", "layers.7.mlp.up_proj")}, FormatError, r"layers\.7\.mlp\.up_proj"),
        ({"tensors": renamed("layers.1.mlp.up_proj", "layers.1.mlp.down_proj.x")}, FormatError, r"down_proj\.x"),
        ({"tensors": renamed("layers.0.mlp.gate_proj.lora_A", "layers.0.mlp.gate_proj.lora_C")}, FormatError, "lora_C"),
        ({"tensors": renamed("mlp.gate_proj", "self_attn.qk_proj")}, FormatError, "does not have"),
        ({"tensors": lambda given: {n: t for n, t in given.items() if "0.mlp.up_proj.lora_B" not in n}}, FormatError, "pair"),
        ({"tensors": lambda given: {n: t[:, :-1].contiguous() if "q_proj.lora_A" in n else t for n, t in given.items()}},
         FormatError, "updates 'model.layers.0.self_attn.q_proj' with shape"),
        ({"r": 4}, FormatError, "rank 8"),
        ({"tensors": lambda given: given | {n.replace("base_model.model.model", "base_model.model"): t.clone()
                                            for n, t in given.items() if "layers.0.mlp.up_proj" in n}}, FormatError, "twice"),
    ],
    ids=["pissa", "qalora", "missing-layer", "missing-part", "foreign", "unknown-module", "unpaired", "shape", "rank", "twice"],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused_by_name(change, error, words, changed, tiny_llama, tmp_path):
    with pytest.raises(error, match=words):
        plan_merge(request(tiny_llama, changed(**change), output=tmp_path / "out"))


@SAVES_EMBEDDINGS
def test_a_copy_of_another_bases_embeddings_is_refused(tokenizer_folder, tmp_path):
    one, two = (
        build_checkpoint(tmp_path / f"base{seed}", "llama", tokenizer_folder, seed=seed, tie_word_embeddings=False)
        for seed in (1, 2)
    )
    adapter = build_adapter(one, tmp_path / "adapter", seed=4, target_modules=["embed_tokens"])
    assert plan_merge(request(one, adapter, output=tmp_path / "out")).describe()["adapted"] == 1
    with pytest.raises(FormatError, match="carries a copy"):
        plan_merge(request(two, adapter, output=tmp_path / "out"))


def test_settings_that_cannot_be_meant_are_refused(tiny_llama, llama_adapter, fold_bases, fold_adapters, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="q3_k"):
        plan_merge(request(tiny_llama, llama_adapter, output=out, quant="q3_k"))
    with pytest.raises(UsageError, match="keeps the types"):
        plan_merge(request(tiny_llama, llama_adapter, output=out, target="safetensors", quant="f16"))
    with pytest.raises(UsageError, match="out of range"):
        plan_merge(request(tiny_llama, source(llama_adapter, float("nan")), output=out))
    with pytest.raises(UnsupportedError, match="MixtralForCausalLM") as refused:
        plan_merge(request(fold_bases["mixtral"], fold_adapters("experts-mixtral"), output=out))
    assert "--to safetensors" in refused.value.instead


@pytest.mark.parametrize("name", ["both", "wte"])
def test_a_merged_checkpoint_of_a_tied_base_loads_with_the_head_of_its_own(name, fold_bases, tmp_path):
    import torch

    case = UNTYING[name]
    base, adapter = fold_bases[case.base], build_case(case, fold_bases[case.base], tmp_path / "adapter")
    merge(base, adapter, output=tmp_path / "out", target="safetensors")
    ids = torch.arange(96)[None, ::3]
    with torch.inference_mode():
        merged = load_model(tmp_path / "out", dtype="float32").eval()(ids).logits
        expected = peft_model(base, adapter, dtype="float32").eval()(ids).logits
    assert float((merged - expected).abs().max() / expected.abs().max()) < 0.01


def test_a_plan_says_what_will_be_written_and_needs_no_torch(tiny_llama, llama_adapter, tmp_path):
    code = (
        "import sys, json; from pathlib import Path; from tests.export.merging import request; "
        "from adreg.export.plan import plan_merge; base, adapter, out = map(Path, sys.argv[1:]); "
        "print(json.dumps(plan_merge(request(base, adapter, output=out, quant='q8_0')).describe())); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    arguments = [str(tiny_llama), str(llama_adapter), str(tmp_path / "out")]
    told = json.loads(subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True).stdout)
    assert told["types"] == {"Q8_0": 15, "F32": 5}
    assert told["adapted"] == told["adapters"][0]["modules"] == 14
    assert told["bytes"] == 3_435_008
    assert told["output"].endswith("tiny-llama-one-3.2M-Q8_0.gguf")
