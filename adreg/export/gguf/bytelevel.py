"""A byte-level BPE tokenizer.json as a GGUF vocabulary. Its pre-tokenizer is recognised elsewhere."""

from __future__ import annotations

from adreg.errors import FormatError, UnsupportedError
from adreg.export.gguf.pretokenizer import pre_tokenizer
from adreg.export.gguf.vocabulary import NORMAL, UNUSED, Vocabulary, added_type, padding
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.strictjson import JsonObject

MODELS = "adreg writes BPE tokenizers, byte-level and SentencePiece's; use --to safetensors"


def byte_level_vocabulary(base: Checkpoint, rows: int) -> Vocabulary:
    """The vocabulary for an embedding table of `rows` rows.

    Raises `UnsupportedError` for a tokenizer of another kind, `FormatError` for ids beyond the table.
    """
    definition = base.tokenizer.definition
    if definition is None:
        raise UnsupportedError(f"GGUF for {base.folder}, which has no tokenizer.json,", MODELS)
    model = definition.get("model") or {}
    odd = {key: model.get(key) for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout")}
    if model.get("type") != "BPE" or any(odd.values()):
        raise UnsupportedError(f"a GGUF tokenizer of type {model.get('type')} with {odd}", MODELS)
    tokens, types = token_table(base, definition, rows)
    prefix = base.tokenizer.config.get("add_prefix_space")
    return Vocabulary("gpt2", pre_tokenizer(definition), tokens, types, space_prefix=prefix)


def token_table(base: Checkpoint, definition: JsonObject, rows: int) -> tuple[list[str], list[int]]:
    """Texts and types of the ids 0 to `rows`-1; ids that no token has are of type unused."""
    texts = {id_: token for token, id_ in definition["model"]["vocab"].items()}
    added = {token["id"]: token for token in definition.get("added_tokens") or []}
    texts |= {id_: token["content"] for id_, token in added.items()}
    if max(texts) >= rows:
        why = f"gives {texts[max(texts)]!r} the id {max(texts)}, and the embedding table has {rows} rows"
        raise FormatError(base.folder / "tokenizer.json", why, "T-TOK-0")
    types = [_type(added.get(id_), id_ in texts) for id_ in range(rows)]
    return [texts.get(id_, padding(id_)) for id_ in range(rows)], types


def _type(added: JsonObject | None, known: bool) -> int:
    if not known:
        return UNUSED
    return added_type(added) if added else NORMAL
