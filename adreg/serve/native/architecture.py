"""What config.json says a model of the Llama family computes. A field that is not understood is refused by name, so that
nothing a model needs is ever left out. Knows fields, no weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adreg.errors import UnsupportedError
from adreg.formats.bases.modelconfig import BOOKKEEPING
from adreg.formats.strictjson import JsonObject
from adreg.serve.native.rope import Rope, ropes

COMMON: JsonObject = {
    "vocab_size": None, "hidden_size": None, "intermediate_size": None, "num_hidden_layers": None, "num_attention_heads": None,
    "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu", "max_position_embeddings": None, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "sliding_window": None, "layer_types": None,
    "rope_theta": None, "rope_scaling": None, "rope_parameters": None,
}  # fmt: skip
PATTERN = "_sliding_window_pattern"  # without layer_types every so many layers see the whole context
GEMMA = COMMON | {"hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True}
GEMMA2 = GEMMA | {
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0, PATTERN: 2,
}  # fmt: skip
QWEN = COMMON | {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
DEFAULTS: dict[str, JsonObject] = {
    "llama": COMMON,
    "mistral": COMMON | {"sliding_window": 4096, "num_key_value_heads": 8},
    "qwen2": QWEN,
    "qwen3": QWEN | {"head_dim": 128},
    "gemma": GEMMA | {"head_dim": 256},
    "gemma2": GEMMA2 | {"head_dim": 256},
    "gemma3_text": GEMMA2 | {
        "head_dim": 256, "final_logit_softcapping": None, "attn_logit_softcapping": None, "rope_local_base_freq": None,
        PATTERN: 6,
    },
}  # fmt: skip
INERT = {"model_type", "is_llama_config", "transformers.js_config", "unsloth_fixed", "unsloth_version", "cache_implementation"}
ACTIVATIONS = {"silu": False, "gelu_pytorch_tanh": True}
FULL, SLIDING = "full_attention", "sliding_attention"
HEAD_STEP = 16


@dataclass(frozen=True)
class Architecture:
    """A model's sizes and switches. `windows` is how many positions a layer's rows see (0: all), `layer_ropes` which of
    `ropes` turns each layer."""

    kind: str
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    eps: float
    tied: bool
    gelu: bool
    bias: frozenset[str]
    windows: tuple[int, ...]
    ropes: tuple[Rope, ...]
    layer_ropes: tuple[int, ...]
    score_scale: float
    score_cap: float
    logit_cap: float

    @property
    def gemma(self) -> bool:
        """Norm weights are stored less one, and embeddings are scaled by the root of their width."""
        return self.kind.startswith("gemma")

    @property
    def norms_outputs(self) -> bool:
        """What attention and the feed-forward part give is normed before it is added."""
        return self.kind in ("gemma2", "gemma3_text")

    @property
    def norms_heads(self) -> bool:
        """Queries and keys are normed head by head."""
        return self.kind in ("qwen3", "gemma3_text")


def read_architecture(config: JsonObject) -> Architecture:
    """The architecture that `config`, a config.json, describes. Raises `UnsupportedError` for one not computed here."""
    kind = str(config.get("model_type"))
    if kind not in DEFAULTS:
        raise UnsupportedError(f"the architecture {kind} in the native engine")
    fields = DEFAULTS[kind] | config
    for name, value in config.items():
        if name not in DEFAULTS[kind] | dict.fromkeys(BOOKKEEPING | INERT) and not _idle(name, value):
            raise UnsupportedError(f"{name}={value!r} in the native engine")
    layers, heads = _size(fields, "num_hidden_layers"), _size(fields, "num_attention_heads")
    kv_heads = _size(fields, "num_key_value_heads", heads)
    hidden = _size(fields, "hidden_size")
    head_dim = _size(fields, "head_dim", hidden // heads)
    if heads % kv_heads or head_dim % HEAD_STEP:
        raise UnsupportedError(f"{heads} heads of {head_dim} over {kv_heads} in the native engine")
    types = _layer_types(kind, fields, layers)
    found = ropes(fields, head_dim)
    return Architecture(
        kind=kind,
        vocabulary=_size(fields, "vocab_size"),
        hidden=hidden,
        inner=_size(fields, "intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=_size(fields, "max_position_embeddings"),
        eps=float(fields["rms_norm_eps"]),
        tied=bool(fields["tie_word_embeddings"]),
        gelu=_gelu(fields),
        bias=frozenset(_biases(kind, fields)),
        windows=tuple(_size(fields, "sliding_window") if one == SLIDING else 0 for one in types),
        ropes=tuple(found.values()),
        layer_ropes=tuple(list(found).index(one) if one in found else 0 for one in types),
        score_scale=float(fields.get("query_pre_attn_scalar") or head_dim) ** -0.5,
        score_cap=float(fields.get("attn_logit_softcapping") or 0.0),
        logit_cap=float(fields.get("final_logit_softcapping") or 0.0),
    )


def _idle(name: str, value: Any) -> bool:
    """Whether a field that nobody knows says nothing."""
    return name.startswith("_") or value in (None, False, [], {})


def _size(fields: JsonObject, name: str, default: int | None = None) -> int:
    value = fields.get(name) or default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise UnsupportedError(f"{name}={value!r} in the native engine")
    return value


def _gelu(fields: JsonObject) -> bool:
    for name in ("hidden_act", "hidden_activation"):
        if fields.get(name, "silu") not in ACTIVATIONS:
            raise UnsupportedError(f"{name}={fields[name]!r} in the native engine")
    return ACTIVATIONS[str(fields.get("hidden_activation", fields["hidden_act"]))]


def _biases(kind: str, fields: JsonObject) -> Iterator[str]:
    if kind == "qwen2":
        yield from ("q_proj", "k_proj", "v_proj")
    elif fields["attention_bias"] and kind != "mistral":
        yield from ("q_proj", "k_proj", "v_proj", "o_proj")
    if fields["mlp_bias"] and kind == "llama":
        yield from ("gate_proj", "up_proj", "down_proj")


def _layer_types(kind: str, fields: JsonObject, layers: int) -> list[str]:
    """Whether each layer sees the whole context or a window of it, by transformers' defaults where nothing is said."""
    if fields["sliding_window"] is None or kind in ("llama", "gemma") or fields.get("use_sliding_window") is False:
        return [FULL] * layers
    given = fields["layer_types"]
    if given is None and kind == "mistral":
        return [SLIDING] * layers
    if given is None and PATTERN in fields:
        return [FULL if (index + 1) % fields[PATTERN] == 0 else SLIDING for index in range(layers)]
    if given is None:
        return [SLIDING if index >= fields["max_window_layers"] else FULL for index in range(layers)]
    if not isinstance(given, list) or len(given) != layers or not set(given) <= {FULL, SLIDING}:
        raise UnsupportedError(f"layer_types={given!r} in the native engine")
    return given


def embedding_scale(architecture: Architecture) -> float:
    """What embeddings are multiplied with."""
    return math.sqrt(architecture.hidden) if architecture.gemma else 1.0
