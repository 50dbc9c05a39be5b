"""The tokenizer inside a GGUF file as tokenizer.json and tokenizer_config.json. Byte-level BPE only."""

from __future__ import annotations

from typing import Any

from adreg.errors import UnsupportedError

CONTROL = 3
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [DIGITS, BYTE_LEVEL]},
}


def tokenizer_definition(fields: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json for the fields `tokenizer.ggml.*`. The pre-tokenizer is built from its llama.cpp name.

    Raises `UnsupportedError` for another kind of tokenizer, and for fields that are not a vocabulary.
    """
    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        raise UnsupportedError(f"GGUF tokenizer {kind!r} with pre-tokenizer {pre!r}", "use a safetensors checkpoint")
    tokens, merges = texts(fields, "tokenizer.ggml.tokens"), texts(fields, "tokenizer.ggml.merges")
    types = fields.get("tokenizer.ggml.token_type")
    if not isinstance(types, list) or len(types) != len(tokens):
        raise UnsupportedError("a GGUF tokenizer without a type for each token", "use a safetensors checkpoint")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(id_, tokens[id_]) for id_, type_ in enumerate(types) if type_ == CONTROL],
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(tokens, merges),
    }


def tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json: the special tokens by text."""
    tokens = texts(fields, "tokenizer.ggml.tokens")
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {role: fields.get(f"tokenizer.ggml.{name}_token_id") for role, name in roles.items()}
    known = {role: id_ for role, id_ in ids.items() if type(id_) is int and 0 <= id_ < len(tokens)}
    return {
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields.get(f"{fields.get('general.architecture')}.context_length"),
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{role: tokens[id_] for role, id_ in known.items()},
    }


def texts(fields: dict[str, Any], name: str) -> list[str]:
    """The list of texts in the field `name`. Raises `UnsupportedError` when it is none."""
    found = fields.get(name)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise UnsupportedError(f"a GGUF file without {name}", "use a safetensors checkpoint")
    return found


def _added(id_: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": id_, "content": content, **flags}


def _bpe(tokens: list[str], merges: list[str]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: id_ for id_, token in enumerate(tokens)},
        "merges": [merge.split(" ", 1) for merge in merges],
    }
