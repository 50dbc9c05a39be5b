"""A SentencePiece BPE tokenizer as a GGUF vocabulary, from tokenizer.model or from the merges of tokenizer.json.

llama.cpp merges the two neighbours whose token has the highest score, whatever two they are (src/llama-vocab.cpp,
llm_tokenizer_spm). A tokenizer whose merges are no such order is refused, and so is one that rewrites its texts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from adreg.errors import FormatError, UnsupportedError
from adreg.export.gguf.pretokenizer import steps_of
from adreg.export.gguf.vocabulary import ENDINGS, Vocabulary, added_type, padding
from adreg.formats.strictjson import JsonObject, read_object
from adreg.formats.text.sentencepiece import ModelType, Piece, PieceType, read_sentencepiece
from adreg.formats.text.tokenizer import CONFIG_LIMIT, TokenizerFiles

MODEL, ADDED = "tokenizer.model", "added_tokens.json"
SPACE = "▁"
ADDED_SCORE, PADDING_SCORE = -1000.0, -10000.0
BYTES = re.compile(r"<0x[0-9A-F]{2}>")
ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
# Gemma's, which finds no space to split at once they are escaped
IDLE = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
UNUSUAL = ("continuing_subword_prefix", "end_of_word_suffix", "dropout", "ignore_merges")
METASPACE_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
# whose names llama.cpp looks for, and which of their tokens do not swallow white space
PHI3 = ("phi-3", "phi3")
KEEP_SPACE = {"<unk>", "<s>", "<|endoftext|>"}
WAY_OUT = "use --to safetensors"


def is_sentencepiece(files: TokenizerFiles) -> bool:
    """Whether the tokenizer is SentencePiece's: BPE that falls back to bytes, or nothing but tokenizer.model."""
    if files.definition is None:
        return files.has(MODEL)
    model = files.definition.get("model") or {}
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def sentencepiece_vocabulary(files: TokenizerFiles, rows: int, name: str) -> Vocabulary:
    """The vocabulary for an embedding table of `rows` rows: the pieces, the added tokens, and padding.

    `name` is the model's, by which llama.cpp knows a Phi-3 and its tokens that swallow the white space after them.

    Raises `UnsupportedError` for what llama.cpp would tokenise otherwise, `FormatError` for ids beyond the table.
    """
    prefix = _space_prefix(files)
    _check_added(files, name.lower())
    table = dict(enumerate(_model_pieces(files))) if files.has(MODEL) else _merged_pieces(files.definition or {})
    table |= {id_: _added_piece(token) for id_, token in _added(files) if not BYTES.fullmatch(token["content"])}
    if max(table) >= rows:
        why = f"gives {table[max(table)].text!r} the id {max(table)}, and the embedding table has {rows} rows"
        raise FormatError(files.path, why, "T-TOK-0")
    pieces = [table.get(id_) or Piece(padding(id_), PADDING_SCORE, PieceType.UNUSED) for id_ in range(rows)]
    _check_texts(files, pieces)
    if files.definition is not None:
        _check_merges(files.definition, {piece.text: piece for piece in pieces})
    texts, types, scores = zip(*((piece.text, int(piece.type), piece.score) for piece in pieces), strict=True)
    return Vocabulary("llama", "default", list(texts), list(types), list(scores), prefix)


def is_comparable(files: TokenizerFiles, text: str) -> bool:
    """Whether llama.cpp can make the tokens of `text` that transformers makes.

    Metaspace puts a space before a text only where none is, and not after special tokens; llama.cpp always does.
    llama.cpp takes what usually ends an answer for a control token, though the tokenizer calls it text.
    """
    added = (files.definition or {}).get("added_tokens") or []
    within = [token for token in added if token["content"] in text]
    if _prefixes_once(files) and (within or text.startswith(" ")):
        return False
    return not any(token["content"] in ENDINGS and not token["special"] for token in within)


def _prefixes_once(files: TokenizerFiles) -> bool:
    """Whether the tokenizer is Metaspace's, by its file or as transformers 5 builds it for the class of Llama."""
    steps = steps_of((files.definition or {}).get("pre_tokenizer"))
    metaspace = any(step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never" for step in steps)
    return is_sentencepiece(files) and (metaspace or files.config.get("tokenizer_class") in METASPACE_CLASSES)


def _space_prefix(files: TokenizerFiles) -> bool:
    """Whether a text is read as if a space stood before it. Anything else that is done to a text first is refused."""
    if files.definition is None:
        return read_sentencepiece(files.place(MODEL)).dummy_prefix
    steps = steps_of(files.definition.get("normalizer"), "normalizers")
    steps += [step for step in steps_of(files.definition.get("pre_tokenizer")) if step != IDLE]
    match steps:
        case [found] if found == ESCAPE:
            return False
        case [first, second] if first == PREPEND and second == ESCAPE:
            return True
        case [{"type": "Metaspace", "replacement": "▁", "split": False, "prepend_scheme": str(scheme)}]:
            return scheme != "never"
    shown = json.dumps(steps, ensure_ascii=False)
    raise UnsupportedError(f"a SentencePiece tokenizer that does {shown} to a text in GGUF", WAY_OUT)


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


def merges_of(definition: JsonObject) -> list[tuple[str, str]]:
    """The pairs that tokenizer.json merges, the first first; older files write a pair as one text with a space."""
    found = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in definition["model"].get("merges") or ())
    return [(left, right) for left, right in found]


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


def _check_added(files: TokenizerFiles, name: str) -> None:
    """Refuse added tokens that are found in another way than llama.cpp finds them."""
    definition = files.definition or {}
    added = definition.get("added_tokens") or []
    prepends = PREPEND in steps_of(definition.get("normalizer"), "normalizers")
    for token in added:
        odd = [flag for flag in ("lstrip", "single_word") if token.get(flag)]
        odd += ["normalized"] if prepends and token.get("normalized") else []
        if odd:
            raise UnsupportedError(f"the added token {token['content']!r} with {' and '.join(odd)} in GGUF", WAY_OUT)
    strips = {token["content"] for token in added if token.get("rstrip")}
    if any(known in name for known in PHI3) != bool(strips):
        way_out = f"put {PHI3[0]} in the name" if strips else f"leave {' and '.join(PHI3)} out of the name"
        raise UnsupportedError(f"a tokenizer {'with' if strips else 'without'} rstrip under the name {name!r} in GGUF", way_out)
    others = {token["content"] for token in added} - strips
    if strips and (others != KEEP_SPACE or "</s>" not in strips):
        raise UnsupportedError(f"a tokenizer with rstrip for {sorted(strips)} alone in GGUF", WAY_OUT)


def _check_texts(files: TokenizerFiles, pieces: Sequence[Piece]) -> None:
    """llama.cpp needs every text once, and a token for every byte."""
    counts = Counter(piece.text for piece in pieces)
    text, count = counts.most_common(1)[0]
    if count > 1:
        raise FormatError(files.path, f"gives {count} ids the text {text!r}", "T-TOK-0")
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in counts]
    if missing:
        raise UnsupportedError(f"a SentencePiece tokenizer without a token for byte {missing[0]} in GGUF", WAY_OUT)


def _check_merges(definition: JsonObject, pieces: Mapping[str, Piece]) -> None:
    """Refuse merges that are not in the order of the scores, and tokens that the merges do not make of their own text."""
    model, merges = definition["model"], merges_of(definition)
    odd = {key: model[key] for key in UNUSUAL if model.get(key)}
    if odd:
        raise UnsupportedError(f"a SentencePiece tokenizer with {odd} in GGUF", WAY_OUT)
    unescaped = {token["content"] for token in definition.get("added_tokens") or () if not token.get("normalized")}
    last, words = None, False
    for left, right in merges:
        found = pieces.get(left + right)
        if found is None and words and left + right in unescaped:
            raise UnsupportedError(
                f"a tokenizer that merges {left + right!r} after words, as llama.cpp cannot, in GGUF", WAY_OUT
            )
        if found is None or found.type != PieceType.NORMAL or found is last:
            continue
        if last and found.score > last.score:
            raise UnsupportedError(f"a tokenizer that merges {last.text!r} before {found.text!r} and after it in GGUF", WAY_OUT)
        last, words = found, words or bool(found.text.strip(SPACE))
    for text in _unmade(model, merges, pieces):
        raise UnsupportedError(f"a tokenizer whose merges do not make {text!r}, and llama.cpp's would, in GGUF", WAY_OUT)


def _unmade(model: JsonObject, merges: list[tuple[str, str]], pieces: Mapping[str, Piece]) -> Iterator[str]:
    """Tokens that are two others joined, and that the merges do not make of their own text."""
    from tokenizers.models import BPE

    bpe = BPE(model["vocab"], merges, unk_token=model.get("unk_token"), byte_fallback=True, fuse_unk=True)
    normal = (text for text, piece in pieces.items() if piece.type == PieceType.NORMAL)
    joined = (text for text in normal if any(text[:at] in pieces and text[at:] in pieces for at in range(1, len(text))))
    yield from (text for text in joined if len(bpe.tokenize(text)) > 1)
