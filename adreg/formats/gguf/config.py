"""What the fields of a GGUF file say of the model, as config.json would. Other architectures keep their own fields."""

from __future__ import annotations

import math
from collections.abc import Container
from pathlib import Path
from typing import Any

from adreg.errors import FormatError
from adreg.formats.gguf.names import CLASSES, ROPE_FACTORS
from adreg.formats.strictjson import JsonObject


def config_of(path: Path, fields: dict[str, Any], tensors: Container[str]) -> JsonObject:
    """The configuration. Raises `FormatError` for a field that is missing or cannot be meant."""
    said = _Fields(path, fields, str(fields.get("general.architecture", "unknown")))
    return _checkpoint_config(said, tensors) if said.architecture in CLASSES else _own_config(said)


def heads_of(path: Path, fields: dict[str, Any], field: str) -> int:
    """The number of heads in `field`; without one for keys and values, there are as many as for queries."""
    name = field if field in fields else "llama.attention.head_count"
    return _Fields(path, fields, "llama").whole(name)


class _Fields:
    """The fields of a file, taken one by one with a check."""

    def __init__(self, path: Path, fields: dict[str, Any], architecture: str) -> None:
        self.path, self.fields, self.architecture = path, fields, architecture

    def whole(self, name: str, default: int | None = None) -> int:
        value = self.fields.get(name, default)
        if type(value) is not int or not 0 < value < 2**31:
            raise FormatError(self.path, f"says {name} = {str(value)[:40]}, where a whole number belongs", "G-KEY-1")
        return value

    def real(self, name: str, default: float | None = None) -> float:
        value = self.fields.get(name, default)
        if not isinstance(value, float) or not math.isfinite(value):
            raise FormatError(self.path, f"says {name} = {str(value)[:40]}, where a number belongs", "G-KEY-1")
        return shortest(value)

    def token(self, role: str) -> int | None:
        value = self.fields.get(f"tokenizer.ggml.{role}_token_id")
        return value if type(value) is int else None


def _checkpoint_config(said: _Fields, tensors: Container[str]) -> JsonObject:
    name = said.architecture
    heads, width = said.whole(f"{name}.attention.head_count"), said.whole(f"{name}.embedding_length")
    tokens = said.fields.get("tokenizer.ggml.tokens")
    rows = said.whole(f"{name}.vocab_size", len(tokens) if isinstance(tokens, list) else None)
    config: JsonObject = {
        "architectures": [CLASSES[name]],
        "model_type": name,
        "bos_token_id": said.token("bos"),
        "dtype": "bfloat16",
        "eos_token_id": said.token("eos"),
        "head_dim": said.whole(f"{name}.attention.key_length", width // heads),
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": said.whole(f"{name}.feed_forward_length"),
        "max_position_embeddings": said.whole(f"{name}.context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": said.whole(f"{name}.block_count"),
        "num_key_value_heads": said.whole(f"{name}.attention.head_count_kv", heads),
        "pad_token_id": said.token("padding"),
        "rms_norm_eps": said.real(f"{name}.attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(said, tensors),
        "tie_word_embeddings": "output.weight" not in tensors,
        "vocab_size": rows,
    }
    biased = "blk.0.attn_q.bias" in tensors
    return config | ({"attention_bias": biased, "mlp_bias": "blk.0.ffn_up.bias" in tensors} if name == "llama" else {})


def _rope(said: _Fields, tensors: Container[str]) -> JsonObject:
    """The rotary settings. Factors in a tensor are llama3's, whose four numbers the file does not give."""
    name = said.architecture
    found: JsonObject = {"rope_theta": said.real(f"{name}.rope.freq_base", 10000.0), "rope_type": "default"}
    scaling = said.fields.get(f"{name}.rope.scaling.type", "none")
    if scaling != "none":
        return found | {"rope_type": str(scaling), "factor": said.real(f"{name}.rope.scaling.factor", 1.0)}
    return found | ({"rope_type": "llama3"} if ROPE_FACTORS in tensors else {})


def _own_config(said: _Fields) -> JsonObject:
    """The fields of an architecture whose settings adreg does not translate."""
    own = {key: value for key, value in said.fields.items() if key.startswith(f"{said.architecture}.")}
    odd = [key for key, value in own.items() if isinstance(value, float) and not math.isfinite(value)]
    if odd:
        raise FormatError(said.path, f"says {odd[0]} = {own[odd[0]]}, which is no number", "G-KEY-1")
    kept = {key: value for key, value in own.items() if not isinstance(value, list)}
    return {"architectures": [f"gguf:{said.architecture}"], "model_type": said.architecture, **kept}


def shortest(value: float) -> float:
    """The shortest decimal that is this float32: 9.999999747378752e-06 was written as 1e-05."""
    import numpy as np

    return float(str(np.float32(value)))
