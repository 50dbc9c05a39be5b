"""Random Llama checkpoints of any depth and their adapters, written straight into safetensors files: no torch, seconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from adreg.formats.bases.checkpoint import INDEX
from adreg.formats.dtypes import to_bfloat16
from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec
from tests.builders import unpack_tokenizer

WIDTH, INNER, HEADS, KV_HEADS, VOCABULARY = 2048, 5632, 32, 4, 49152
MODULES = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH * KV_HEADS // HEADS, WIDTH),
    "self_attn.v_proj": (WIDTH * KV_HEADS // HEADS, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH), "mlp.down_proj": (WIDTH, INNER),
}  # fmt: skip
RANK = 16
POOL = 1 << 22


def build_base(folder: Path, layers: int = 22, shards: int = 3) -> Path:
    """A bf16 checkpoint of 1.17 billion parameters with 22 layers."""
    folder.mkdir(parents=True)
    unpack_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(_config(layers), indent=2))
    specs = list(_base_specs(layers))
    size = sum(spec.nbytes for spec in specs) / shards
    parts: list[list[TensorSpec]] = [[] for _ in range(shards)]
    done = 0
    for spec in specs:
        parts[int(done // size)].append(spec)
        done += spec.nbytes
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    for name, part in zip(names, parts, strict=True):
        _write(folder / name, part, 0.02)
    where = {spec.name: name for name, part in zip(names, parts, strict=True) for spec in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": done}, "weight_map": where}))
    return folder


def build_lora(folder: Path, layers: int = 22) -> Path:
    """A LoRA of rank 16 on every linear module of such a base."""
    folder.mkdir(parents=True)
    specs = []
    for layer in range(layers):
        for module, (rows, columns) in MODULES.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            specs += [TensorSpec(f"{name}.lora_A.weight", "F32", (RANK, columns))]
            specs += [TensorSpec(f"{name}.lora_B.weight", "F32", (rows, RANK))]
    _write(folder / "adapter_model.safetensors", specs, 0.005)
    targets = sorted(module.rpartition(".")[2] for module in MODULES)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "target_modules": targets, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_version": "0.21.2"}))
    return folder


def _base_specs(layers: int) -> Iterator[TensorSpec]:
    yield TensorSpec("model.embed_tokens.weight", "BF16", (VOCABULARY, WIDTH))
    for layer in range(layers):
        for module, shape in MODULES.items():
            yield TensorSpec(f"model.layers.{layer}.{module}.weight", "BF16", shape)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield TensorSpec(f"model.layers.{layer}.{norm}.weight", "BF16", (WIDTH,))
    yield TensorSpec("model.norm.weight", "BF16", (WIDTH,))
    yield TensorSpec("lm_head.weight", "BF16", (VOCABULARY, WIDTH))


def _write(path: Path, specs: Sequence[TensorSpec], scale: float) -> None:
    values = np.random.default_rng(0).normal(0, scale, POOL).astype(np.float32)
    pool = (to_bfloat16(values) if specs[0].dtype == "BF16" else values).data.cast("B")
    with path.open("wb") as file:
        writer = SafetensorsWriter(file, specs, {"format": "pt"})
        for spec in specs:
            for start in range(0, spec.nbytes, len(pool)):
                writer.write(pool[: min(len(pool), spec.nbytes - start)])
        writer.finish()


def _config(layers: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": WIDTH // HEADS, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048, "tie_word_embeddings": False, "rope_theta": 10000.0, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip


if __name__ == "__main__":
    build_base(Path(sys.argv[1]) / "base", int(sys.argv[2]))
    build_lora(Path(sys.argv[1]) / "adapter", int(sys.argv[2]))
