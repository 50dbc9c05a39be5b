"""What config.json says about the mathematics of a model, apart from what is bookkeeping."""

from __future__ import annotations

from typing import Any

from blake3 import blake3

from adreg.formats.canonical import canonical_json
from adreg.formats.strictjson import JsonObject

BOOKKEEPING = {
    "architectures", "attention_dropout",
    "auto_map", "bos_token_id", "dtype", "eos_token_id", "embd_pdrop", "attn_pdrop", "resid_pdrop", "gradient_checkpointing",
    "initializer_range", "is_decoder", "output_attentions", "output_hidden_states", "pad_token_id", "pretraining_tp",
    "quantization_config", "return_dict", "return_dict_in_generate", "sep_token_id", "task_specific_params", "torch_dtype",
    "transformers_version", "unk_token_id", "use_cache", "reorder_and_upcast_attn", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj", "n_ctx",
}  # fmt: skip


def config_id(config: JsonObject) -> str:
    """Hash of the fields that change what the model computes; a field adreg does not know counts as one."""
    ignored = BOOKKEEPING | {"rope_theta", "rope_scaling", "rope_parameters"}
    relevant = {key: value for key, value in config.items() if key not in ignored and not key.startswith("_")}
    kept = {key: value for key, value in relevant.items() if value not in (None, False, [], {})}
    kept |= {"rope": rope(config), "head_dim": head_dim(config)}
    return "b3:" + blake3(b"adreg.cfg.v1\0" + canonical_json(_rounded(kept))).hexdigest()


def rope(config: JsonObject) -> JsonObject:
    """The rotary parameters, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    found = {("rope_type" if key == "type" else key): value for key, value in scaling.items()}
    theta = found.get("rope_theta", config.get("rope_theta", 10000.0))
    return {**found, "rope_type": found.get("rope_type", "default"), "rope_theta": float(theta or 10000.0)}


def head_dim(config: JsonObject) -> int | None:
    """Elements of one attention head, or None where the configuration does not say."""
    if config.get("head_dim"):
        return int(config["head_dim"])
    hidden = config.get("hidden_size") or config.get("n_embd")
    heads = config.get("num_attention_heads") or config.get("n_head")
    return hidden // heads if hidden and heads else None


def ties_embeddings(config: JsonObject) -> bool:
    """Whether the output head is the embedding matrix; transformers' default is yes."""
    return bool(config.get("tie_word_embeddings", True))


def _rounded(value: Any) -> Any:
    """Floats to seven digits: 1e-05 and its float32 neighbour 9.999999747378752e-06 are one setting."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value
