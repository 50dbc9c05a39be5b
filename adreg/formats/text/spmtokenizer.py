"""A tokenizer.json from tokenizer.model, for bases that carry only that or a tokenizer in Python code of their own.

What LlamaTokenizer does with such a file: bytes stand in for unknown characters, control and user-defined pieces are whole
tokens in a text, and each stretch between them is cut for itself. Other kinds of SentencePiece models are refused.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from adreg.errors import UnsupportedError
from adreg.formats.strictjson import JsonObject
from adreg.formats.text.sentencepiece import ModelType, Piece, PieceType, SentencePieceModel, read_sentencepiece
from adreg.formats.text.tokenizer import ROLES, TokenizerFiles

MODEL, SPACE = "tokenizer.model", "▁"
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def definition_from_model(files: TokenizerFiles) -> JsonObject:
    """The tokenizer.json that means the same as the tokenizer.model in `files`. Raises `UnsupportedError` for one that none
    of its steps can be written for: Unigram, rewritten characters, dropped spaces, no bytes."""
    model = read_sentencepiece(files.place(MODEL))
    if model.type != ModelType.BPE or model.charsmap or model.remove_extra_whitespaces or not model.byte_fallback:
        raise UnsupportedError(f"a SentencePiece tokenizer {model.settings}", "convert it to tokenizer.json with transformers")
    added = _added(files, model)
    texts = {piece.text: id_ for id_, piece in enumerate(model.pieces)} | {token["content"]: token["id"] for token in added}
    unknown = next((piece.text for piece in model.pieces if piece.type == PieceType.UNKNOWN), None)
    core = {"type": "BPE", "unk_token": unknown, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False}
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    first = [{"type": "Prepend", "prepend": SPACE}] if model.dummy_prefix else []
    undone = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if model.dummy_prefix else []
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [*first, spaces]},
        "pre_tokenizer": None,
        "post_processor": _around(files, texts),
        "decoder": {"type": "Sequence", "decoders": [*undone, *strip]},
        "model": {**core, "vocab": texts, "merges": merges(model.pieces)},
    }


def merges(pieces: tuple[Piece, ...]) -> list[list[str]]:
    """All pairs of pieces that make a piece, the best score first: SentencePiece joins whatever makes the best one."""
    ids = {piece.text: id_ for id_, piece in enumerate(pieces)}
    ranked = sorted((piece for piece in pieces if piece.type == PieceType.NORMAL), key=lambda piece: -piece.score)
    found: list[list[str]] = []
    for piece in ranked:
        halves = ((piece.text[:at], piece.text[at:]) for at in range(1, len(piece.text)))
        pairs = [pair for pair in halves if pair[0] in ids and pair[1] in ids]
        found += [list(pair) for pair in sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    return found


def _added(files: TokenizerFiles, model: SentencePieceModel) -> list[JsonObject]:
    """The tokens that are found whole in a text, by id: the model's own kinds, and those that the configuration adds."""
    wanted: dict[int, JsonObject] = defaultdict(dict)
    special = {PieceType.CONTROL, PieceType.UNKNOWN}
    for id_, piece in enumerate(model.pieces):
        if piece.type in (*special, PieceType.USER_DEFINED):
            wanted[id_] = {"content": piece.text, "special": piece.type in special, **FLAGS}
    for key, token in (files.config.get("added_tokens_decoder") or {}).items():
        wanted[int(key)] = {**FLAGS, **wanted[int(key)], **token}
    named = {files.special_token(role) for role in ROLES}
    for token in wanted.values():
        token["special"] = bool(token.get("special")) or token["content"] in named
    return [{"id": id_, **wanted[id_]} for id_ in sorted(wanted)]


def _around(files: TokenizerFiles, ids: dict[str, int]) -> JsonObject | None:
    """What is put around a text without a template: what the configuration says, else as the tokenizer's class has it."""
    llama = str(files.config.get("tokenizer_class", "")).startswith("Llama")
    asked = {"bos_token": files.config.get("add_bos_token", llama), "eos_token": files.config.get("add_eos_token", False)}
    tokens = {role: files.special_token(role) for role, wanted in asked.items() if wanted}
    known = {role: text for role, text in tokens.items() if text in ids}
    if not known:
        return None

    def piece(role: str) -> list[Any]:
        return [{"SpecialToken": {"id": known[role], "type_id": 0}}] if role in known else []

    single = [*piece("bos_token"), {"Sequence": {"id": "A", "type_id": 0}}, *piece("eos_token")]
    pair = [*single, *piece("bos_token"), {"Sequence": {"id": "B", "type_id": 0}}, *piece("eos_token")]
    listed = {str(text): {"id": text, "ids": [ids[str(text)]], "tokens": [text]} for text in known.values()}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": listed}
