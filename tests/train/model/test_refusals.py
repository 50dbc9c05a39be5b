"""What cannot be meant is refused by name before torch is imported, each within a second."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adreg.errors import AdregError, UnsupportedError, UsageError
from adreg.train.config import check_config
from adreg.train.model.checks import checked_base
from tests.builders import build_checkpoint
from tests.train.model.training import set_config

LORA, PARENT = {"lora": {"targets": ["q_proj"]}}, {"parent": "voice:1"}
FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"method": "ia3", "lora": {"r": 16}}, "method ia3 knows no lora.r", "remove lora.r"),
    ({"method": "prefix", "lora": {"dropout": 0.1}}, "method prefix knows no lora.dropout", "prompt.tokens, prompt.hidden"),
    ({"method": "loha", "lora": {"dora": True}}, "method loha knows no lora.dora", "remove lora.dora"),
    ({"prompt": {"text": "be kind"}}, "method lora knows no prompt.text", "remove prompt.text"),
    ({"method": "prompt", "prompt": {"hidden": 8}}, "method prompt knows no prompt.hidden", "remove prompt.hidden"),
    (
        {"method": "prompt", "prompt": {"tokens": 2, "text": "Speak as a keeper."}},
        "prompt.text has 6 tokens",
        "prompt.tokens=6",
    ),
    ({"lora": {"init": "orthogonal", "r": 7}}, "orthogonal needs even ranks", "lora.r=8"),
    ({"lora": {"init": "pissa", "dora": True}}, "a DoRA on it fits no other", "remove lora.dora"),
    ({"lora": {"init": "pissa", "r": 64}}, "k_proj has a smaller side than rank 64", "a lower lora.r"),
    ({"lora": {"init": "olora", "r": 8}, "objective": "dpo"}, "dpo compares with the base", "remove lora.init"),
    ({"base": {"quantise": "nf4"}, "lora": {"init": "pissa"}}, "that base.quantise rounds", "remove lora.init"),
    ({"base": {"quantise": "nf4"}, "method": "lokr"}, "cannot adapt a quantised base", "method=lora"),
    ({"method": "prompt", "train": {"packing": True}}, "rows cannot be packed", "remove train.packing"),
    ({"method": "prefix", "train": {"checkpointing": "on"}}, "which checkpointing drops", "remove train.checkpointing"),
    ({"method": "p-tuning", **PARENT}, "it cannot be continued", "remove parent"),
    ({"lora": {"init": "eva"}, **PARENT}, "lora.init would draw new ones", "remove lora.init"),
    ({"lora": {"targets": ["c_attn"]}}, "this base has no 'c_attn'", "its linear modules are down_proj, gate_proj, k_proj,"),
    ({"lora": {"targets": ["q_prj"]}}, "this base has no 'q_prj'", "did you mean q_proj?"),
    ({"lora": {"targets": []}}, "nothing would be trained", "its linear modules are"),
    ({"lora": {"exclude": ["w1"]}}, "lora.exclude: this base has no 'w1'", "its linear modules are"),
    ({"lora": {"rank_pattern": {"c_fc": 4}}}, "lora.rank_pattern: 'c_fc' means no module", "its linear modules are"),
    ({"lora": {"alpha_pattern": {"(": 4}}}, "lora.alpha_pattern: '(' is no expression", ""),
    ({"lora": {"layers": [2]}}, "there is no layer 2", "its layers are 0 to 1"),
    ({"lora": {"modules_to_save": ["mlp"]}}, "this base has no 'mlp'", "its linear modules are"),
    ({"lora": {"modules_to_save": ["down_proj"]}}, "'down_proj' means 2 modules", "lora.targets"),
    ({"lora": {"modules_to_save": ["lm_head"]}}, "one tensor for its embedding and its output head", "remove lm_head"),
    ({"lora": {"targets": ["embed_tokens"]}}, "one tensor for its embedding and its output head", "lora.new_tokens"),
    ({"lora": {"new_tokens": ["<one>"]}}, "a new token '<one>' beyond the 49152 rows", "use tokens"),
]


@pytest.mark.parametrize(("settings", "why", "hint"), FAULTS, ids=[why for _, why, _ in FAULTS])
def test_it_is_named_with_a_way_out(settings: dict[str, Any], why: str, hint: str, tiny_llama: Path) -> None:
    with pytest.raises((UsageError, UnsupportedError)) as caught:
        checked_base(tiny_llama, "tiny", check_config(settings))
    assert why in str(caught.value)
    assert hint in (getattr(caught.value, "hint", "") or getattr(caught.value, "instead", ""))


def test_what_is_sound_passes_without_torch(tiny_llama: Path, tiny_gpt2: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from adreg.train.config import check_config\n"
        "from adreg.train.model.checks import checked_base\n"
        "for folder in sys.argv[1:]:\n"
        "    checked_base(Path(folder), 'tiny', check_config({'lora': {'rank_pattern': {'.*c_fc|up_proj': 4}}}))\n"
        "began = time.perf_counter(); checked_base(Path(folder), 'tiny', check_config({}))\n"
        "assert time.perf_counter() - began < 0.5\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_llama), str(tiny_gpt2)], check=True, timeout=60)


def refused(folder: Path, **settings: Any) -> AdregError:
    with pytest.raises(AdregError) as caught:
        checked_base(folder, "tiny", check_config(settings))
    return caught.value


def test_bases_that_cannot_be_trained_on_are_refused_by_name(tiny_llama: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_llama, tmp_path / "base"))
    set_config(base / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantised with gptq" in str(refused(base))
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    assert "a GGUF file (model.gguf)" in str(refused(tmp_path / "model.gguf"))
    assert "nf4 without bitsandbytes" in str(refused(tiny_llama, base={"quantise": "nf4"}))


def test_loha_on_conv1d_and_a_head_that_is_normalised_are_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    assert "does not know the Conv1D modules" in str(refused(tiny_gpt2, method="loha"))
    base = build_checkpoint(tmp_path / "base", "llama", None, vocab_size=64, tie_word_embeddings=False)
    set_config(base / "config.json", model_type="index", architectures=["IndexForCausalLM"], norm_head=1)
    assert "lm_head of this base is normalised" in str(refused(base, lora={"targets": ["lm_head"]}))
    set_config(base / "config.json", rope_ratio=2.0)
    assert "an Index base with rope_ratio" in str(refused(base))


def test_the_code_of_a_base_runs_only_after_consent_to_this_one(tiny_llama: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_llama, tmp_path / "own"))
    set_config(base / "config.json", model_type="ownmodel", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    assert "brings its own Python code" in str(refused(base))
    agreed = {"remote_code": True}
    assert "no Python file" in str(refused(base, base=agreed))
    (base / "modeling_own.py").write_text("class Own: ...\n")
    assert checked_base(base, "own", check_config({"base": agreed})).folder == base
    checked_base(base, "own", check_config({"base": {**agreed, "name": "org/Own"}}))
    assert "agreed to for org/other" in str(refused(base, base={**agreed, "name": "org/other"}))
    set_config(base / "config.json", auto_map={"AutoModelForCausalLM": "someone/else--modeling.Own"})
    assert "code of another repository" in str(refused(base, base=agreed))
