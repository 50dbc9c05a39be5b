"""A SentencePiece BPE tokenizer as a GGUF vocabulary, from tokenizer.model or from the merges of tokenizer.json."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from adreg.errors import FormatError, UnsupportedError
from adreg.export.gguf.exactness import (
    MODEL,
    SPACE,
    WAY_OUT,
    check_added,
    check_merges,
    check_texts,
    merges_of,
    space_prefix,
)
from adreg.export.gguf.vocabulary import Vocabulary, added_type, padding
from adreg.formats.strictjson import JsonObject, read_object
from adreg.formats.text.sentencepiece import ModelType, Piece, PieceType, read_sentencepiece
from adreg.formats.text.tokenizer import CONFIG_LIMIT, TokenizerFiles

ADDED = "added_tokens.json"
ADDED_SCORE, PADDING_SCORE = -1000.0, -10000.0
BYTES = re.compile(r"<0x[0-9A-F]{2}>")


def sentencepiece_vocabulary(files: TokenizerFiles, rows: int, name: str) -> Vocabulary:
    """The vocabulary for an embedding table of `rows` rows: the pieces, the added tokens, and padding.

    `name` is the model's, by which llama.cpp knows a Phi-3 and its tokens that swallow the white space after them.

    Raises `UnsupportedError` for what llama.cpp would tokenise otherwise, `FormatError` for ids beyond the table.
    """
    prefix = space_prefix(files)
    check_added(files, name.lower())
    table = dict(enumerate(_model_pieces(files))) if files.has(MODEL) else _merged_pieces(files.definition or {})
    table |= {id_: _added_piece(token) for id_, token in _added(files) if not BYTES.fullmatch(token["content"])}
    if max(table) >= rows:
        why = f"gives {table[max(table)].text!r} the id {max(table)}, and the embedding table has {rows} rows"
        raise FormatError(files.path, why, "T-TOK-0")
    pieces = [table.get(id_) or Piece(padding(id_), PADDING_SCORE, PieceType.UNUSED) for id_ in range(rows)]
    check_texts(files, pieces)
    if files.definition is not None:
        check_merges(files.definition, {piece.text: piece for piece in pieces})
    texts, types, scores = zip(*((piece.text, int(piece.type), piece.score) for piece in pieces), strict=True)
    return Vocabulary("llama", "default", list(texts), list(types), list(scores), prefix)


def _model_pieces(files: TokenizerFiles) -> tuple[Piece, ...]:
    """The pieces of tokenizer.model, which must be those of tokenizer.json where there is one."""
    model, definition = read_sentencepiece(files.place(MODEL)), files.definition
    if model.type != ModelType.BPE or not model.byte_fallback or model.charsmap or model.remove_extra_whitespaces:
        raise UnsupportedError(f"a SentencePiece tokenizer {model.settings} in GGUF", WAY_OUT)
    if definition is None:
        return model.pieces
    texts = {id_: text for text, id_ in definition["model"]["vocab"].items()}
    for id_, piece in enumerate(model.pieces):
        if texts.get(id_, piece.text) != piece.text:
            why = f"calls the token {id_} {texts[id_]!r}, and {MODEL} calls it {piece.text!r}"
            raise FormatError(files.path, why, "T-TOK-0")
    # what is cut out of a text whole is said by tokenizer.json
    return tuple(
        replace(piece, type=PieceType.NORMAL) if piece.type == PieceType.USER_DEFINED else piece for piece in model.pieces
    )


def _merged_pieces(definition: JsonObject) -> dict[int, Piece]:
    """The pieces of tokenizer.json by id: the earlier a token is merged, the higher its score; single characters last."""
    model = definition["model"]
    products = dict.fromkeys(left + right for left, right in merges_of(definition))
    order = {text: rank for rank, text in enumerate(products)}
    pieces = {}
    for text, id_ in sorted(model["vocab"].items(), key=lambda item: item[1]):
        if BYTES.fullmatch(text):
            pieces[id_] = Piece(text, 0.0, PieceType.BYTE)
        elif text == model.get("unk_token"):
            pieces[id_] = Piece(text, 0.0, PieceType.UNKNOWN)
        else:
            pieces[id_] = Piece(text, -float(order.setdefault(text, len(order))), PieceType.NORMAL)
    return pieces


def _added(files: TokenizerFiles) -> Iterator[tuple[int, JsonObject]]:
    """The added tokens by id, from the three files that may name them; the last word counts."""
    if files.has(ADDED):
        for text, id_ in read_object(files.place(ADDED), "T-TOK-0", CONFIG_LIMIT).items():
            yield id_, {"content": text}
    for id_, token in (files.config.get("added_tokens_decoder") or {}).items():
        yield int(id_), token
    for token in (files.definition or {}).get("added_tokens") or ():
        yield token["id"], token


def _added_piece(token: JsonObject) -> Piece:
    """An added token: llama.cpp looks for those that stand for text before it escapes the spaces."""
    if added_type(token) == PieceType.CONTROL:
        return Piece(token["content"], ADDED_SCORE, PieceType.CONTROL)
    return Piece(token["content"].replace(SPACE, " "), ADDED_SCORE, PieceType.USER_DEFINED)
