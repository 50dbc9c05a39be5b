"""A base that is only looked at: a configuration, SmolLM2's tokenizer, and tensors for their names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj")


@pytest.fixture(scope="module")
def module_base(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    folder = shutil.copytree(tokenizer_folder, tmp_path_factory.mktemp("light") / "base")
    tensors = {f"model.layers.0.{name}.weight": np.zeros((2, 2), np.float32) for name in PROJECTIONS}
    save_file({**tensors, "model.embed_tokens.weight": np.zeros((4, 2), np.float32)}, folder / "model.safetensors")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 256}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def light_base(tmp_path: Path, module_base: Path) -> Path:
    """One of one's own, to be changed."""
    return shutil.copytree(module_base, tmp_path / "base")
