"""Continued training: it goes on from the very weights, and only from an adapter that fits base and settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from adreg.errors import AdregError, PickleRefused
from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.train.model.checks import checked_base
from adreg.train.model.load import count_trainable, load_model, trainable_parameters
from tests.builders import build_adapter, build_checkpoint
from tests.train.model.training import configured, logits, plain, saved, set_config, trained

PARENT: dict[str, Any] = {"parent": "tiny"}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"r": 4, "rslora": True, "targets": ["q_proj", "up_proj"]}},
    "dora": {"lora": {"dora": True}},
    "pissa": {"lora": {"r": 4, "init": "pissa"}},
    "ia3": {"method": "ia3"},
    "lokr": {"method": "lokr", "lora": {"r": 2}},
    "prefix": {"method": "prefix", "prompt": {"tokens": 5}},
    "prompt": {"method": "prompt", "prompt": {"tokens": 5}},
    "saved": {"lora": {"targets": ["q_proj"], "modules_to_save": ["lm_head"]}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parents") / "base"
    return build_checkpoint(folder, "llama", None, vocab_size=1024, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def parent(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, _ = trained(base, configured(lora={"r": 4, "dropout": 0.1, "targets": ["q_proj", "up_proj"]}))
    return saved(model, base, tmp_path_factory.mktemp("parent") / "out")


@pytest.mark.parametrize("name", KINDS)
def test_it_goes_on_from_the_very_weights(name: str, base: Path, tmp_path: Path) -> None:
    first, losses = trained(base, configured(**KINDS[name]))
    folder = saved(first, base, tmp_path / "first")
    config = configured(method=KINDS[name].get("method", "lora"), **PARENT)
    checked_base(base, "org/tiny", config, folder)
    model = load_model(base, config, parent=folder)
    torch.testing.assert_close(logits(model), logits(first), rtol=1e-4, atol=1e-4)
    assert all(one.dtype == torch.float32 for one in model.parameters() if one.requires_grad)
    counted = count_trainable(json.loads((base / "config.json").read_text()), config, folder)
    assert counted == (trainable_parameters(model), sum(one.numel() for one in model.parameters()))
    doubled = 2 if name == "pissa" else 1
    assert trainable_parameters(model) == doubled * trainable_parameters(first)
    second, more = trained(base, config, folder)
    assert more[0] < losses[-1] and more[-1] < more[0]
    torch.testing.assert_close(
        logits(plain(base, saved(second, base, tmp_path / "second"))), logits(second), rtol=1e-4, atol=1e-4
    )


def refused(base: Path, folder: Path, **settings: Any) -> AdregError:
    with pytest.raises(AdregError) as caught:
        checked_base(base, "org/tiny", configured(**PARENT, **settings), folder)
    return caught.value


def test_settings_that_the_parent_decided_otherwise_are_refused_and_its_own_are_taken(base: Path, parent: Path) -> None:
    assert "lora.r is 16, and the parent was trained with 4" in str(refused(base, parent, lora={"r": 16}))
    assert "lora.targets is ['k_proj']" in str(refused(base, parent, lora={"r": 4, "targets": ["k_proj"]}))
    assert refused(base, parent, method="ia3").hint == "--set method=lora"  # type: ignore[attr-defined]
    agreeing = {"r": 4, "alpha": 8, "targets": ["up_proj", "q_proj"], "dropout": 0.1, "lr_ratio": 4}
    config = configured(**PARENT, lora=agreeing)
    checked_base(base, "org/tiny", config, parent)
    model = load_model(base, config, parent=parent)
    assert model.peft_config["default"].lora_dropout == 0.1


def test_parents_of_other_bases_and_unsafe_ones_are_refused(base: Path, parent: Path, tmp_path: Path) -> None:
    wider = build_checkpoint(tmp_path / "wider", "llama", None, vocab_size=64, intermediate_size=96)
    assert "and this base has it as (96, 64)" in str(refused(wider, parent))
    gpt2 = build_checkpoint(tmp_path / "gpt2", "gpt2", None, vocab_size=64)
    assert "which this base has not" in str(refused(gpt2, parent))
    changed = Path(shutil.copytree(parent, tmp_path / "changed"))
    set_config(changed / CONFIG, init_lora_weights="pissa")
    assert "changed by pissa" in str(refused(base, changed))
    (changed / WEIGHTS).rename(changed / "adapter_model.bin")
    assert isinstance(refused(base, changed), PickleRefused)


def test_a_parent_that_lacks_a_tensor_is_refused_when_it_is_loaded(base: Path, parent: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(parent, tmp_path / "less"))
    tensors = load_file(folder / WEIGHTS)
    lost = next(name for name in tensors if "layers.1" in name and "lora_B" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, folder / WEIGHTS)
    with pytest.raises(AdregError, match="do not agree about"):
        load_model(base, configured(**PARENT), parent=folder)


def test_an_adapter_that_peft_itself_saved_can_be_continued(tiny_llama: Path, tmp_path: Path) -> None:
    folder = build_adapter(tiny_llama, tmp_path / "own", 3)
    config = configured(**PARENT)
    checked_base(tiny_llama, "org/tiny", config, folder)
    model = load_model(tiny_llama, config, parent=folder)
    torch.testing.assert_close(logits(model), logits(plain(tiny_llama, folder)), rtol=1e-4, atol=1e-4)
    assert json.loads((folder / CONFIG).read_text())["inference_mode"] is True
