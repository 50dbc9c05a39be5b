"""The token ids that settings mean: `prompt.text`, and `lora.new_tokens` in the vocabulary or in rows that the embedding
has to spare. Knows tokenizer files, no tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adreg.errors import UnsupportedError, UsageError
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.strictjson import JsonObject
from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.train.config import TrainConfig

EMBEDDINGS = ("embed_tokens.weight", "wte.weight")


def prompt_ids(base: Checkpoint, config: TrainConfig) -> list[int]:
    """The ids of `prompt.text`, none without one. Raises `UsageError` where there are more than virtual tokens."""
    if not config.prompt.text:
        return []
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(json.dumps(_definition(base.tokenizer)))
    ids = [int(one) for one in found.encode(config.prompt.text, add_special_tokens=False).ids]
    if not ids:
        raise UsageError("prompt.text has no token", "remove prompt.text")
    if len(ids) > config.prompt.tokens:
        why = f"prompt.text has {len(ids)} tokens and prompt.tokens is {config.prompt.tokens}"
        raise UsageError(why, f"--set prompt.tokens={len(ids)}")
    return ids


def token_ids(base: Checkpoint, config: TrainConfig) -> list[int]:
    """The ids of `lora.new_tokens`, in their order.

    A token that the vocabulary lacks takes the next row of the embedding that no token has. Raises `UnsupportedError` where
    there is none: a resized embedding would not fit the base.
    """
    return list(named_ids(base, config.lora.new_tokens).values())


def named_ids(base: Checkpoint, names: list[str]) -> dict[str, int]:
    """As `token_ids`, by name."""
    if not names:
        return {}
    vocabulary = _vocabulary(_definition(base.tokenizer))
    rows, following = _rows(base), max(vocabulary.values(), default=-1) + 1
    found = {}
    for name in names:
        found[name] = vocabulary.setdefault(name, following)
        following = max(following, found[name] + 1)
    beyond = [name for name, id_ in found.items() if id_ >= rows]
    if beyond:
        spare = [name for name in vocabulary if "reserved" in name.lower() or "unused" in name.lower()][:3]
        raise UnsupportedError(
            f"a new token {beyond[0]!r} beyond the {rows} rows of the base's embedding",
            f"use tokens that the vocabulary keeps free: {', '.join(spare)}" if spare else "use tokens of the vocabulary",
        )
    return found


def extended(definition: JsonObject, ids: Mapping[str, int]) -> JsonObject:
    """tokenizer.json with the tokens of `ids` that it lacks."""
    known = _vocabulary(definition)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": id_, "content": name, **flags} for name, id_ in ids.items() if name not in known]
    return {**definition, "added_tokens": [*(definition.get("added_tokens") or []), *added]}


def with_tokens(base: Checkpoint, config: TrainConfig) -> Checkpoint:
    """`base` with a tokenizer that knows `lora.new_tokens`, as it is written beside the adapter."""
    tokenizer = TokenizerFiles(base.folder)
    definition = extended(_definition(tokenizer), named_ids(base, config.lora.new_tokens))
    tokenizer.__dict__["definition"] = definition  # where the cached properties keep what they have read
    found = Checkpoint(base.folder, base.config, base.shards)
    found.__dict__["tokenizer"] = tokenizer
    return found


def _definition(tokenizer: TokenizerFiles) -> JsonObject:
    if tokenizer.definition is None:
        raise UnsupportedError(f"a tokenizer without tokenizer.json ({tokenizer.folder})", "convert it with transformers")
    return tokenizer.definition


def _vocabulary(definition: JsonObject) -> dict[str, int]:
    """Every token with its id, added ones included."""
    model: Any = definition.get("model") or {}
    vocab = model.get("vocab") or {}
    listed = vocab if isinstance(vocab, dict) else {entry[0]: place for place, entry in enumerate(vocab)}
    added = {str(one["content"]): int(one["id"]) for one in definition.get("added_tokens") or []}
    return {**{str(name): int(id_) for name, id_ in listed.items()}, **added}


def _rows(base: Checkpoint) -> int:
    for name, shape in base.shapes.items():
        if name.endswith(EMBEDDINGS):
            return int(shape[0])
    raise UnsupportedError(f"new tokens on a base without a plain embedding ({base.architecture})")
