"""Adapters that would be misread, ignored or dangerous are refused by name before anything runs on them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adreg.errors import ConflictError, FormatError, UnsupportedError
from adreg.formats.adapters.adapter import open_adapter
from adreg.formats.bases.checkpoint import Checkpoint, open_checkpoint
from adreg.serve.fit import Fitted, Site, fit
from tests.builders import build_adapter

A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
COPY = "base_model.model.model.embed_tokens.base_layer.weight"


def sites_of(checkpoint: Checkpoint) -> Mapping[str, Site]:
    """The sites of a tiny Llama or GPT-2 as its tensors tell them; a head that the files lack is tied."""
    found: dict[str, Site] = {}
    for weight, view in checkpoint.items():
        name = weight.removesuffix(".weight")
        if len(view.shape) == 2 and not name.endswith("wpe"):
            rows, columns = view.shape
            embedding = name.endswith(("embed_tokens", "wte"))
            turned = embedding or checkpoint.is_conv1d(name)
            kind: Any = "embedding" if embedding else "conv1d" if turned else "linear"
            found[name] = Site(
                kind, *((rows, columns) if turned else (columns, rows)), embedding and "lm_head.weight" not in checkpoint
            )
    table = next(site for site in found.values() if site.kind == "embedding")
    return found if "lm_head" in found else {**found, "lm_head": Site("linear", table.outside, table.inside, True)}


def fitted(base: Path, adapter: Path) -> dict[str, Fitted]:
    checkpoint = open_checkpoint(base)
    return {part.lora.name: part for part in fit(sites_of(checkpoint), checkpoint, "mine", open_adapter(adapter))}


def changed(adapter: Path, folder: Path, tensors: dict[str, Any]) -> Path:
    """A copy of `adapter` with `tensors` replaced, added or (None) removed."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(adapter, folder)
    weights = {**load_file(folder / "adapter_model.safetensors"), **tensors}
    save_file({name: value for name, value in weights.items() if value is not None}, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def plain(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_adapter(tiny_llama, tmp_path_factory.mktemp("fit") / "plain", 1, r=4, target_modules=["q_proj", "v_proj"])


@pytest.mark.parametrize(
    ("tensors", "error", "said"),
    [
        ({A: np.full((4, 64), np.nan, np.float32)}, FormatError, "NaN or infinity"),
        ({A: np.full((4, 64), np.inf, np.float16)}, FormatError, "NaN or infinity"),
        ({A: np.zeros((4, 32), np.float32)}, ConflictError, "maps 32 to 64 at model.layers.0.self_attn.q_proj"),
        ({A: np.zeros((2, 64), np.float32), A.replace("_A", "_B"): np.zeros((64, 2), np.float32)},
         FormatError, "has rank 2, which its configuration denies"),
        ({A: None}, FormatError, "lacks its A or its B"),
        ({A: np.zeros((4, 64), np.int8)}, UnsupportedError, "of type I8"),
        ({"lm_head.weight": np.zeros((2, 2), np.float32)}, FormatError, "no LoRA parameter"),
        ({COPY: np.zeros((49152, 64), np.float32)}, UnsupportedError, "its own, changed model.embed_tokens.weight"),
        ({COPY: np.zeros((49152, 32), np.float32)}, ConflictError, "its own model.embed_tokens.weight, which does not fit"),
        ({COPY.replace("embed_tokens", "norm"): np.full(64, np.nan, np.float32)}, FormatError, "NaN or infinity"),
        ({A.replace("layers.0", "layers.9"): np.zeros((4, 64), np.float32),
          A.replace("layers.0", "layers.9").replace("_A", "_B"): np.zeros((64, 4), np.float32)},
         ConflictError, "adapts model.layers.9.self_attn.q_proj"),
        ({A.replace("model.layers", "layers"): np.zeros((4, 64), np.float32),
          A.replace("model.layers", "layers").replace("_A", "_B"): np.zeros((64, 4), np.float32)},
         FormatError, "adapts 'model.layers.0.self_attn.q_proj' twice"),
        ({A.replace("layers.0.self_attn.q_proj", "norm"): np.zeros((4, 1), np.float32),
          A.replace("layers.0.self_attn.q_proj", "norm").replace("_A", "_B"): np.zeros((64, 4), np.float32)},
         UnsupportedError, "LoRA on model.norm, no linear layer"),
        ({A.replace("lora_A.weight", "lora_magnitude_vector"): np.ones(64, np.float32)}, FormatError, "disagree about a magn"),
    ],
)  # fmt: skip
def test_a_broken_adapter_is_refused_by_name(
    tiny_llama: Path, plain: Path, tmp_path: Path, tensors: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        fitted(tiny_llama, changed(plain, tmp_path / "broken", tensors))


def test_every_module_gets_its_place_and_its_own_scaling(tiny_llama: Path, tmp_path: Path) -> None:
    patterns: dict[str, Any] = {
        "rank_pattern": {"layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 32},
    }
    folder = build_adapter(tiny_llama, tmp_path / "patterns", 1, target_modules=["q_proj", "down_proj"], **patterns)
    parts = fitted(tiny_llama, folder)
    assert {name: part.lora.scaling for name, part in parts.items() if "q_proj" in name} == {
        "model.layers.0.self_attn.q_proj": 4.0, "model.layers.1.self_attn.q_proj": 8.0,
    }  # fmt: skip
    assert parts["model.layers.1.mlp.down_proj"].site == Site("linear", 160, 64)
    assert all(part.magnitude is None for part in parts.values())


def test_names_of_another_wrapping_find_their_place(tiny_llama: Path, plain: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    keys = load_file(plain / "adapter_model.safetensors")
    renamed = {key.replace(".model.model.", ".model.language_model.model."): value for key, value in keys.items()}
    folder = changed(plain, tmp_path / "renamed", dict.fromkeys(keys) | renamed)
    assert fitted(tiny_llama, folder).keys() == fitted(tiny_llama, plain).keys()


def test_dora_comes_with_its_magnitudes(tiny_gpt2: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"use_dora": True, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    parts = fitted(tiny_gpt2, build_adapter(tiny_gpt2, tmp_path / "dora", 1, **settings))
    attention = parts["transformer.h.0.attn.c_attn"]
    assert attention.site == Site("conv1d", 64, 192)
    assert attention.magnitude is not None
    assert attention.magnitude.shape == (192,)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:Setting `save_embedding_layers`")
def test_tied_ends_fit_one_by_one_and_their_unchanged_copies_too(tiny_llama: Path, tmp_path: Path) -> None:
    for target in ("embed_tokens", "lm_head"):
        folder = build_adapter(tiny_llama, tmp_path / target, 1, target_modules=[target, "q_proj"])
        assert open_adapter(folder).base_copies, "PEFT saves a copy beside an adapted embedding"
        [end] = [part for part in fitted(tiny_llama, folder).values() if part.site.tied]
        assert end.lora.name.endswith(target)


MORE: list[dict[str, Any]] = [{"bias": "lora_only"}, {"trainable_token_indices": [1]}, {"modules_to_save": ["embed_tokens"]}]


@pytest.mark.parametrize("extra", MORE)
def test_more_than_lora_is_refused_by_name(tiny_llama: Path, tmp_path: Path, extra: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = build_adapter(tiny_llama, tmp_path / "more", 1, target_modules=["q_proj"], **extra)
    with pytest.raises(UnsupportedError, match=f"adapter mine: {next(iter(extra))}") as refused:
        fitted(tiny_llama, folder)
    assert refused.value.instead == "merge it into the base and serve that"


def test_an_adapter_of_another_base_is_refused(tiny_gpt2: Path, plain: Path) -> None:
    with pytest.raises(ConflictError, match="which the base does not have"):
        fitted(tiny_gpt2, plain)
