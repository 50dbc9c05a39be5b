"""Adapters that would be misread, ignored or dangerous are refused by name before serving starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adreg.errors import ConflictError, FormatError, UnsupportedError
from adreg.formats.adapters.adapter import open_adapter
from adreg.serve.catalog import ServedAdapter
from adreg.serve.engine import Engine
from adreg.serve.loading import EngineSettings, load_engine
from tests.builders import build_adapter
from tests.serve.conftest import BASE_DIGEST, World


def serve(base: Path, *adapters: tuple[str, Path]) -> Engine:
    served = [ServedAdapter(name, open_adapter(path), f"sha256:{name}") for name, path in adapters]
    return load_engine(base, "base", BASE_DIGEST, served, EngineSettings(dtype="float32"))


def changed(adapter: Path, folder: Path, **tensors: Any) -> Path:
    """A copy of `adapter` with `tensors` replaced, added or (None) removed; `@` stands for the dot in names."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(adapter, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    for name, value in tensors.items():
        weights.pop(name, None)
        if value is not None:
            weights[name] = value
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
COPY = "base_model.model.model.embed_tokens.base_layer.weight"


@pytest.mark.parametrize(
    ("tensors", "error", "said"),
    [
        ({A: np.full((4, 64), np.nan, np.float32)}, FormatError, "NaN or infinity"),
        ({A: np.full((4, 64), np.inf, np.float16)}, FormatError, "NaN or infinity"),
        ({A: np.zeros((4, 32), np.float32)}, ConflictError, "maps 32 to 64 at model.layers.0.self_attn.q_proj"),
        ({A: None}, FormatError, "lacks its A or its B"),
        ({A: np.zeros((4, 64), np.int8)}, UnsupportedError, "of type I8"),
        ({"lm_head.weight": np.zeros((2, 2), np.float32)}, FormatError, "no LoRA parameter"),
        ({COPY: np.zeros((49152, 64), np.float32)}, UnsupportedError, "its own, changed model.embed_tokens.weight"),
        (
            {A.replace("layers.0", "layers.9"): np.zeros((4, 64), np.float32),
             A.replace("layers.0", "layers.9").replace("_A", "_B"): np.zeros((64, 4), np.float32)},
            ConflictError, "adapts model.layers.9.self_attn.q_proj",
        ),
    ],
)  # fmt: skip
def test_a_broken_adapter_is_refused_by_name(
    llama: World, tmp_path: Path, tensors: dict[str, Any], error: type[Exception], said: str
) -> None:
    folder = changed(llama.adapters["ns/qv:prod"], tmp_path / "broken", **tensors)
    with pytest.raises(error, match=said):
        serve(llama.base, ("broken", folder))


def test_more_than_plain_lora_is_refused_by_name(llama: World, tmp_path: Path) -> None:
    folder = build_adapter(llama.base, tmp_path / "dora", seed=1, use_dora=True, target_modules=["q_proj"])
    with pytest.raises(UnsupportedError, match="use_dora"):
        serve(llama.base, ("dora", folder))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:Setting `save_embedding_layers`")
def test_lora_on_tied_embeddings_is_refused_by_name(tiny_llama: Path, tmp_path: Path) -> None:
    for target in ("embed_tokens", "lm_head"):
        folder = build_adapter(tiny_llama, tmp_path / target, seed=1, target_modules=[target, "q_proj"])
        with pytest.raises(UnsupportedError, match=f"LoRA on .*{target}.*ties"):
            serve(tiny_llama, ("tied", folder))


def test_an_adapter_of_another_base_is_refused(gpt2: World, llama: World) -> None:
    with pytest.raises(ConflictError, match="which the base does not have"):
        serve(gpt2.base, ("all", llama.adapters["all"]))


def test_two_models_of_one_name_are_refused(llama: World) -> None:
    with pytest.raises(ConflictError, match="two models are called 'base'"):
        serve(llama.base, ("base", llama.adapters["all"]))


def test_the_ends_of_a_text_are_read_from_every_file_that_names_them(llama: World, tmp_path: Path) -> None:
    base = shutil.copytree(llama.base, tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 17]}))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "eos_token_id": 3}))
    engine = serve(base)
    assert engine._stop_ids == {0, 2, 3, 17}


def test_a_base_that_lacks_weights_or_needs_code_is_refused(llama: World, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    base = shutil.copytree(llama.base, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(FormatError, match=r"lacks the model's weight 'model.layers.1.mlp.up_proj.weight'"):
        serve(base)
    config = json.loads((base / "config.json").read_text())
    for changes in ({"model_type": "other"}, {"model_type": "other", "auto_map": {"AutoConfig": "code.Config"}}):
        (base / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UnsupportedError, match=r"the architecture LlamaForCausalLM \(other\)"):
            serve(base)
