"""The tokenizer of a base as the `tokenizer.*` keys of a GGUF file. Refuses what llama.cpp would tokenise otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adreg.errors import FormatError
from adreg.export.gguf.bytelevel import byte_level_vocabulary
from adreg.export.gguf.exactness import is_sentencepiece
from adreg.export.gguf.sentencepiece import sentencepiece_vocabulary
from adreg.export.gguf.vocabulary import ENDINGS, Vocabulary
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.strictjson import read_object

if TYPE_CHECKING:
    from gguf import GGUFWriter


def write_tokenizer(writer: GGUFWriter, base: Checkpoint, rows: int, name: str, template: str | None) -> None:
    """Write the tokenizer of `base` for an embedding table of `rows` rows, in a model called `name`, and the chat template.

    Raises `UnsupportedError` for a tokenizer that llama.cpp does not have, `FormatError` for one that does not fit.
    """
    from gguf import SpecialVocab

    vocabulary = _vocabulary(base, rows, name)
    special = SpecialVocab(base.folder, load_merges=vocabulary.scores is None, n_vocab=rows)
    special.add_special_token.setdefault("bos", False)
    special.special_token_ids |= _end_of_turn(base, vocabulary.tokens, special.special_token_ids.get("eos"))
    special.chat_template = template
    if vocabulary.space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.space_prefix)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    special.add_to_gguf(writer, quiet=True)


def _vocabulary(base: Checkpoint, rows: int, name: str) -> Vocabulary:
    files = base.tokenizer
    try:
        if is_sentencepiece(files):
            return sentencepiece_vocabulary(files, rows, name)
        return byte_level_vocabulary(base, rows)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(files.path, f"is no tokenizer: {error!r}", "T-TOK-0") from error


def _end_of_turn(base: Checkpoint, tokens: list[str], end: int | None) -> dict[str, int]:
    """The token that ends an answer beside `end`, by generation_config.json, where llama.cpp would not know it."""
    path = base.folder / "generation_config.json"
    said = read_object(path, "B-CFG-0").get("eos_token_id") if path.is_file() else None
    ids = said if isinstance(said, list) else [said]
    others = [id_ for id_ in ids if type(id_) is int and 0 <= id_ < len(tokens) and id_ != end]
    unknown = [id_ for id_ in others if tokens[id_] not in ENDINGS]
    return {"eot": unknown[0]} if unknown else {}
