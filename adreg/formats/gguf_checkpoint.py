"""Unpacks a GGUF model of the llama family into an ordinary bf16 checkpoint folder: weights, config, tokenizer.

Quantised values are expanded exactly (gguf's own dequantisers) and rounded once to bfloat16. Needs no torch.
The rows of q and k go back from llama.cpp's interleaved rotary order to Hugging Face's halves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adreg.errors import UnsupportedError
from adreg.formats.atomic import atomic_folder
from adreg.formats.dtypes import Float32, from_float32
from adreg.formats.gguf_tokenizer import tokenizer_config, tokenizer_definition
from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec
from adreg.progress import SILENT, Progress

GLOBAL_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True)
class GgufModel:
    """The key/value fields of a GGUF file and its tensors (gguf's ReaderTensor) by name."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]

    @property
    def architecture(self) -> str:
        return str(self.fields["general.architecture"])


def open_gguf(path: Path) -> GgufModel:
    """Map the GGUF file at `path` and read its fields; tensors are read when touched."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    return GgufModel(
        path,
        {name: field.contents() for name, field in reader.fields.items()},
        {tensor.name: tensor for tensor in reader.tensors},
    )


def unpack_gguf(source: Path, folder: Path, progress: Progress = SILENT) -> None:
    """Write the model in `source` as a checkpoint to `folder`, which appears whole or not at all."""
    model = open_gguf(source)
    if model.architecture != "llama":
        raise UnsupportedError(f"unpacking GGUF architecture {model.architecture!r}", "use a safetensors checkpoint")
    with atomic_folder(folder) as partial:
        _write_json(partial / "config.json", _config(model))
        _write_json(partial / "generation_config.json", _generation_config(model))
        _write_json(partial / "tokenizer.json", tokenizer_definition(model.fields))
        _write_json(partial / "tokenizer_config.json", tokenizer_config(model.fields))
        template = model.fields.get("tokenizer.chat_template")
        if template:
            (partial / "chat_template.jinja").write_text(template, encoding="utf-8")
        _write_weights(model, partial / "model.safetensors", progress)


def _write_weights(model: GgufModel, path: Path, progress: Progress) -> None:
    names = {_hf_name(name): name for name in model.tensors if name != "rope_freqs.weight"}
    specs = [TensorSpec(name, "BF16", _shape(model.tensors[names[name]])) for name in sorted(names)]
    with path.open("wb") as file, progress.task("unpack", sum(spec.nbytes for spec in specs), "B") as task:
        writer = SafetensorsWriter(file, specs, {"format": "pt"})
        for spec in specs:
            writer.write(from_float32(_values(model, names[spec.name]), "BF16"))
            task.advance(spec.nbytes, spec.name)
        writer.finish()


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in reversed(tensor.shape))


def _values(model: GgufModel, name: str) -> Float32:
    from gguf import quants

    tensor = model.tensors[name]
    values: Float32 = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(_shape(tensor))
    if name.endswith(("attn_q.weight", "attn_k.weight")):
        heads = model["llama.attention.head_count" if ".attn_q." in name else "llama.attention.head_count_kv"]
        return rotary_halves(values, heads)
    return values


def rotary_halves(weight: Float32, heads: int) -> Float32:
    """(out, in) rows from llama.cpp's interleaved rotary pairs to Hugging Face's two halves, head by head."""
    return weight.reshape(heads, -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _hf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in GLOBAL_NAMES:
        return f"{GLOBAL_NAMES[stem]}.{kind}"
    block, _, part = stem.removeprefix("blk.").partition(".")
    if not block.isdigit() or part not in BLOCK_NAMES:
        raise UnsupportedError(f"GGUF tensor {name!r}", "use a safetensors checkpoint")
    return f"model.layers.{block}.{BLOCK_NAMES[part]}.{kind}"


def _config(model: GgufModel) -> dict[str, Any]:
    heads, width = model["llama.attention.head_count"], model["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": model["tokenizer.ggml.bos_token_id"],
        "dtype": "bfloat16",
        "eos_token_id": model["tokenizer.ggml.eos_token_id"],
        "head_dim": width // heads,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": model["llama.feed_forward_length"],
        "max_position_embeddings": model["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": model["llama.block_count"],
        "num_key_value_heads": model["llama.attention.head_count_kv"],
        "pad_token_id": model.fields.get("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": _shortest(model["llama.attention.layer_norm_rms_epsilon"]),
        "rope_parameters": {"rope_theta": _shortest(model["llama.rope.freq_base"]), "rope_type": "default"},
        "tie_word_embeddings": "output.weight" not in model.tensors,
        "vocab_size": len(model["tokenizer.ggml.tokens"]),
    }


def _shortest(value: float) -> float:
    """The shortest decimal that is this float32: 9.999999747378752e-06 was written as 1e-05."""
    return float(str(np.float32(value)))


def _generation_config(model: GgufModel) -> dict[str, Any]:
    return {
        "bos_token_id": model["tokenizer.ggml.bos_token_id"],
        "eos_token_id": model["tokenizer.ggml.eos_token_id"],
        "pad_token_id": model.fields.get("tokenizer.ggml.padding_token_id"),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
