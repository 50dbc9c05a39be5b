"""Small adapters and bases as files, written with numpy: no model is loaded for a test about records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from adreg.formats.bases.fingerprint import BaseIds

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
IDS = BaseIds(**{name: "b3:" + f"{index}" * 64 for index, name in enumerate(BaseIds.__dataclass_fields__)})
RUN: dict[str, Any] = {
    "id": "20261121-abc", "started": "2026-11-21T05:00:00Z", "outcome": "finished", "losses": [[1, 2.5, 1e-4, 9.0]],
    "eval": {"base": 3.0, "adapter": 1.5}, "config": {"lora": {"r": 4}, "train": {"epochs": 2}}, "seed": 7,
    "data": [{"path": "keeper.jsonl", "sha256": "c" * 64, "rows": 12}],
}  # fmt: skip


def tensors_of(
    seed: int, rank: int = 4, modules: tuple[str, ...] = MODULES, size: tuple[int, int] = (24, 16)
) -> dict[str, Any]:
    """Random A (rank, in) and B (out, rank) for each module, under the names that PEFT gives them."""
    draw = np.random.default_rng(seed).standard_normal
    found: dict[str, Any] = {}
    for module in modules:
        found[f"base_model.model.{module}.lora_A.weight"] = draw((rank, size[1])).astype(np.float32)
        found[f"base_model.model.{module}.lora_B.weight"] = draw((size[0], rank)).astype(np.float32)
    return found


def small_adapter(folder: Path, seed: int = 0, tensors: dict[str, Any] | None = None, **changes: Any) -> Path:
    """An adapter folder; `record` becomes its adreg.json, everything else goes into adapter_config.json."""
    folder.mkdir(parents=True)
    record, rank = changes.pop("record", None), changes.get("r", 4)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"], **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors or tensors_of(seed, rank), folder / "adapter_model.safetensors")
    if record is not None:
        (folder / "adreg.json").write_text(json.dumps(record))
    return folder


def recorded(**changes: Any) -> dict[str, Any]:
    """The record of a training on the base of `IDS`."""
    return {**RUN, "base": {"name": "tiny", **vars(IDS)}, **changes}


def small_base(folder: Path, seed: int = 0) -> Path:
    """A checkpoint folder with two tensors."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed).standard_normal
    tensors = {f"model.layers.{layer}.self_attn.q_proj.weight": draw((24, 16)).astype(np.float32) for layer in (0, 1)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    return folder
