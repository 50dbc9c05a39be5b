from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adreg.errors import UnsupportedError
from adreg.export.plan import plan_merge
from adreg.export.run import run_merge
from adreg.formats.gguf.header import read_gguf
from tests.builders import build_adapter
from tests.export.merging import merge, request, source
from tests.export.test_gguf_against_converter import Model
from tests.export.test_gguf_in_llamacpp import LOUD

ORACLE = Path(os.environ.get("ADREG_LORA_ORACLE") or Path(__file__).parents[2] / ".venv" / "lora-oracle")
ATTENTION = ["q_proj", "k_proj", "v_proj"]
# llama.cpp's script forgets the first three of these and writes the fourth wrongly
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "rslora": ("llama", {"use_rslora": True}),
    "patterns": ("llama", {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 5}, "alpha_pattern": {"v_proj": 64}}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"], "use_rslora": True}),
    "gpt2-conv1d": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_rslora": True, "fan_in_fan_out": True}),
    "qwen2": ("qwen2", {"alpha_pattern": {"k_proj": 3}}),
    "phi3-fused": ("phi3", {}),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory, tokenizer_folder):
    root = tmp_path_factory.mktemp("bases")
    made: dict[str, Path] = {}
    for kind in sorted({kind for kind, _ in CASES.values()}):
        untied = {} if kind == "gpt2" else {"tie_word_embeddings": False}
        model = Model(kind, untied | LOUD, "qwen2" if kind == "qwen2" else None)
        made[kind] = model.build(root / f"base-{len(made)}", tokenizer_folder)
    return made


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize(("kind", "changes"), CASES.values(), ids=CASES.keys())
def test_llamacpp_with_the_gguf_adapter_does_what_peft_does(kind, changes, bases, tmp_path):
    adapter = build_adapter(bases[kind], tmp_path / "adapter", 3, **changes)
    sources = (source(adapter, -0.7),)
    wanted = request(bases[kind], *sources, output=tmp_path / "lora.gguf", target="gguf-lora", verify=True)
    proof = run_merge(plan_merge(wanted)).verification
    assert proof is not None and proof.passed and proof.lines > 200
    assert proof.max_delta_logprob < 0.003
    assert proof.adapter_effect == pytest.approx(1, abs=0.005)
    assert proof.merged_max_delta is not None and proof.merged_max_delta < 0.001


@pytest.mark.skipif(not (ORACLE / "convert_lora_to_gguf.py").is_file(), reason=f"llama.cpp's script is not in {ORACLE}")
def test_a_plain_lora_is_what_llama_cpp_s_own_script_writes(bases, tmp_path):
    adapter = build_adapter(bases["llama"], tmp_path / "adapter", 3)
    ours = read_gguf(merge(bases["llama"], adapter, output=tmp_path / "ours.gguf", target="gguf-lora").path)
    command = [sys.executable, str(ORACLE / "convert_lora_to_gguf.py"), str(adapter), "--base", str(bases["llama"])]
    environment = os.environ | {"PYTHONPATH": str(ORACLE / "gguf-py")}
    done = subprocess.run(
        [*command, "--outfile", str(tmp_path / "theirs.gguf")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    theirs = read_gguf(tmp_path / "theirs.gguf")
    assert ours.fields["adapter.lora.alpha"] == theirs.fields["adapter.lora.alpha"] == 16
    for key in ("general.type", "general.architecture", "adapter.type"):
        assert ours.fields[key] == theirs.fields[key]
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        assert (ours.tensors[name].shape, ours.tensors[name].dtype) == (tensor.shape, tensor.dtype)
        assert np.array_equal(ours.tensors[name].float32(), tensor.float32()), name


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use_dora": True, "target_modules": ATTENTION}, "no plain LoRA"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "no plain LoRA"),
    ],
    ids=["dora", "saved"],
)
def test_what_a_and_b_cannot_say_is_refused_with_the_way_out(changes, why, bases, tmp_path):
    adapter = build_adapter(bases["llama"], tmp_path / "adapter", 3, **changes)
    with pytest.raises(UnsupportedError, match=why) as error:
        plan_merge(request(bases["llama"], adapter, output=tmp_path / "out.gguf", target="gguf-lora"))
    assert "merge" in error.value.instead


def test_two_adapters_and_one_of_no_weight_are_refused(bases, llama_adapter, tmp_path):
    adapter = build_adapter(bases["llama"], tmp_path / "adapter", 3)
    twice, never = (source(adapter), source(adapter)), (source(adapter, 0.0),)
    for sources, why in ((twice, "one GGUF adapter of"), (never, "does nothing")):
        with pytest.raises(UnsupportedError, match=why):
            plan_merge(request(bases["llama"], *sources, output=tmp_path / "out.gguf", target="gguf-lora"))
