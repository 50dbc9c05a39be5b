"""Bases that need more than a class of transformers: Index, those with code of their own, and ModelScope's folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from adreg.errors import NotFoundError
from adreg.registry.registry import Registry
from adreg.settings import Settings
from adreg.train.model.bases import loaded_as, remote_code_sha256
from adreg.train.model.checks import checked_base
from adreg.train.model.load import load_model
from tests.builders import build_checkpoint
from tests.train.model.training import configured, logits, rows, set_config, trained

INDEX = {"model_type": "index", "architectures": ["IndexForCausalLM"], "max_length": 4096}
OWN = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "ownmodel"


class Own(LlamaForCausalLM):
    config_class = OwnConfig

    def forward(self, *inputs, **named):
        out = super().forward(*inputs, **named)
        out.logits = out.logits * 2
        return out
"""


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return build_checkpoint(tmp_path / "llama", "llama", None, vocab_size=1024, tie_word_embeddings=False, seed=5)


@pytest.mark.parametrize("norm_head", [1, 0, True, False])
def test_an_index_checkpoint_is_a_llama_with_a_head_of_unit_rows(norm_head: int, llama: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    set_config(llama / "config.json", **INDEX, norm_head=norm_head)
    model = load_model(llama, configured())
    ids = torch.from_numpy(rows()[1].ids).long()[None]
    states = reference.model(ids).last_hidden_state[0]
    head = F.normalize(reference.lm_head.weight) if norm_head else reference.lm_head.weight
    torch.testing.assert_close(logits(model), (states @ head.t()).detach(), rtol=1e-4, atol=1e-5)
    assert model.config.architectures == ["LlamaForCausalLM"]


def test_the_head_of_an_index_base_stays_in_bf16_and_its_file_as_it_was(llama: Path) -> None:
    set_config(llama / "config.json", **INDEX, norm_head=1)
    before = (llama / "model.safetensors").read_bytes()
    head = load_model(llama, configured(train={"precision": "bf16"})).get_output_embeddings().weight
    assert head.dtype == torch.bfloat16
    torch.testing.assert_close(head.float().norm(dim=-1), torch.ones(1024), rtol=0, atol=0.01)
    assert (llama / "model.safetensors").read_bytes() == before


def test_the_code_of_a_base_is_run_after_consent_and_its_digest_recorded(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = logits(AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32))
    auto_map = {"AutoConfig": "own_model.OwnConfig", "AutoModelForCausalLM": "own_model.Own"}
    set_config(llama / "config.json", model_type="ownmodel", architectures=["Own"], auto_map=auto_map)
    (llama / "own_model.py").write_text(OWN)
    config = configured(base={"remote_code": True})
    base = checked_base(llama, "own", config)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    torch.testing.assert_close(logits(load_model(llama, config)), 2 * reference, rtol=1e-4, atol=1e-5)
    first = remote_code_sha256(base, config)
    (llama / "own_model.py").write_text(OWN + "\n")
    assert first is not None and first.startswith("sha256:") and remote_code_sha256(base, config) != first


def test_code_beside_a_model_that_transformers_knows_is_not_run(llama: Path) -> None:
    set_config(llama / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    (llama / "evil.py").write_text("raise SystemExit\n")
    base = checked_base(llama, "plain", configured())
    assert not loaded_as(base.config, configured().base).remote_code and remote_code_sha256(base, configured()) is None
    assert type(load_model(llama, configured()).get_base_model()).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_a_base_stored_in_another_type_is_trained_in_the_chosen_one(stored: torch.dtype, tmp_path: Path) -> None:
    base = build_checkpoint(tmp_path / "base", "llama", None, vocab_size=1024, dtype=stored)
    model, losses = trained(base, configured(train={"precision": "bf16"}))
    assert model.dtype == torch.bfloat16 and losses[-1] < losses[0]


def test_weights_of_the_right_type_stay_in_their_file(tmp_path: Path) -> None:
    base = build_checkpoint(tmp_path / "base", "llama", None, vocab_size=1024)
    model = load_model(base, configured(train={"precision": "bf16"}))
    weight = model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("model.safetensors")]
    ranges = [tuple(int(part, 16) for part in line.split()[0].split("-")) for line in maps if str(base) in line]
    assert any(start <= weight.data_ptr() < end for start, end in ranges)


def test_a_modelscope_download_is_a_base_like_any_other(
    llama: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "cache" / "hub" / "models" / "org" / "Tiny-1___5B"))
    (folder / "configuration.json").write_text(json.dumps({"framework": "pytorch", "task": "text-generation"}))
    (folder / ".msc").write_bytes(b"\x80\x04")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    bases = Registry(Settings(home)).bases
    known = bases.add("modelscope:org/Tiny-1.5B")
    assert (known.folder, known.name, known.origin) == (folder, "tiny-1-5b", "modelscope:org/Tiny-1.5B")
    with pytest.raises(NotFoundError, match="no model in ModelScope's cache 'org/none'"):
        bases.add("modelscope:org/none")
    checked_base(known.folder, known.name, configured())
    _, losses = trained(known.folder, configured())
    assert losses[-1] < losses[0]
