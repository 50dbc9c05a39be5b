"""Tiny checkpoints, written with numpy alone: what is in them is decided by formulas, so that their ids are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from adreg.formats.bases.checkpoint import INDEX, SINGLE, open_checkpoint
from adreg.formats.bases.fingerprint import fingerprint
from adreg.formats.bases.leaves import LeafCache
from adreg.formats.dtypes import Float32, from_float32
from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec

SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (12, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.rotary_emb.inv_freq": (4,),
    "model.layers.0.mlp.gate_proj.weight": (16, 8),
    "model.layers.0.mlp.up_proj.weight": (16, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.1.mlp.up_proj.weight": (16, 8),
    "model.norm.weight": (8,),
    "lm_head.weight": (12, 8),
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "num_attention_heads": 2,
    "vocab_size": 12,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
ADDED: dict[str, Any] = {
    "id": 5,
    "content": "<s>",
    "special": True,
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
}
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [ADDED],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel"},
    "model": {
        "type": "BPE",
        "dropout": None,
        "vocab": {"a": 0, "b": 1, "ab": 2, "é\u2028\U0001f600": 3, "\x7f\n\u0001": 4},
        "merges": [["a", "b"]],
    },
}
TOKENIZER_CONFIG = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"


@dataclass(frozen=True)
class Stored:
    """A tensor as it is stored."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def values(shape: tuple[int, ...], seed: int) -> Float32:
    """Numbers between -0.5 and 0.5 that depend on their place and `seed` alone."""
    places = np.arange(int(np.prod(shape)), dtype=np.int64)
    return (((places * 7919 + seed * 104729) % 65537) / 65537 - 0.5).astype(np.float32).reshape(shape)


def stored(numbers: Float32, dtype: str = "BF16") -> Stored:
    return Stored(dtype, numbers.shape, bytes(from_float32(numbers, dtype)))


@dataclass(frozen=True)
class Model:
    """Everything that goes into a checkpoint folder."""

    tensors: dict[str, Stored] = field(
        default_factory=lambda: {name: stored(values(shape, seed)) for seed, (name, shape) in enumerate(SHAPES.items())}
    )
    config: Mapping[str, Any] = field(default_factory=lambda: CONFIG)
    tokenizer: Mapping[str, Any] | None = field(default_factory=lambda: TOKENIZER)
    tokenizer_config: Mapping[str, Any] = field(default_factory=lambda: TOKENIZER_CONFIG)
    template: str | None = TEMPLATE
    metadata: dict[str, str] | None = None
    shards: int = 1

    def with_config(self, **changed: Any) -> Model:
        return replace(self, config={**self.config, **changed})

    def write(self, folder: Path) -> Path:
        """The checkpoint in `folder`: its tensors go to the shards in turn, in their order."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "tokenizer_config.json").write_text(json.dumps(self.tokenizer_config))
        if self.tokenizer is not None:
            (folder / "tokenizer.json").write_text(json.dumps(self.tokenizer, ensure_ascii=False))
        if self.template is not None:
            (folder / "chat_template.jinja").write_bytes(self.template.encode())
        self._write_tensors(folder)
        return folder

    def _write_tensors(self, folder: Path) -> None:
        names = list(self.tensors)
        if self.shards == 1:
            self._write_shard(folder / SINGLE, names)
            return
        where = {name: f"model-{place % self.shards + 1:05}.safetensors" for place, name in enumerate(names)}
        (folder / INDEX).write_text(json.dumps({"weight_map": where}))
        for file in set(where.values()):
            self._write_shard(folder / file, [name for name in names if where[name] == file])

    def _write_shard(self, path: Path, names: list[str]) -> None:
        specs = [TensorSpec(name, self.tensors[name].dtype, self.tensors[name].shape) for name in names]
        with path.open("wb") as file:
            writer = SafetensorsWriter(file, specs, self.metadata)
            for name in names:
                writer.write(self.tensors[name].data)
            writer.finish()


def ids_of(folder: Path, cache: LeafCache | None = None) -> dict[str, str | None]:
    """The ids of the checkpoint in `folder` by name."""
    return vars(fingerprint(open_checkpoint(folder), cache)[0])


def moved(one: Mapping[str, str | None], two: Mapping[str, str | None]) -> set[str]:
    """Names of the ids that differ."""
    assert set(one) == set(two)
    return {name for name in one if one[name] != two[name]}
