"""What llama.cpp's SentencePiece does with a text, and which tokenizers do the same; all others are refused by name.

llama.cpp escapes the spaces, may put one before the text, and then merges the two neighbours whose token has the
highest score, whatever two they are (src/llama-vocab.cpp, llm_tokenizer_spm).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from adreg.errors import FormatError, UnsupportedError
from adreg.export.gguf.pretokenizer import steps_of
from adreg.export.gguf.vocabulary import ENDINGS
from adreg.formats.strictjson import JsonObject
from adreg.formats.text.sentencepiece import Piece, PieceType, read_sentencepiece
from adreg.formats.text.tokenizer import TokenizerFiles

MODEL, SPACE = "tokenizer.model", "▁"
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


def space_prefix(files: TokenizerFiles) -> bool:
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


def merges_of(definition: JsonObject) -> list[tuple[str, str]]:
    """The pairs that tokenizer.json merges, the first first; older files write a pair as one text with a space."""
    found = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in definition["model"].get("merges") or ())
    return [(left, right) for left, right in found]


def check_added(files: TokenizerFiles, name: str) -> None:
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


def check_texts(files: TokenizerFiles, pieces: Sequence[Piece]) -> None:
    """llama.cpp needs every text once, and a token for every byte."""
    counts = Counter(piece.text for piece in pieces)
    text, count = counts.most_common(1)[0]
    if count > 1:
        raise FormatError(files.path, f"gives {count} ids the text {text!r}", "T-TOK-0")
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in counts]
    if missing:
        raise UnsupportedError(f"a SentencePiece tokenizer without a token for byte {missing[0]} in GGUF", WAY_OUT)


def check_merges(definition: JsonObject, pieces: Mapping[str, Piece]) -> None:
    """Refuse merges that are not in the order of the scores, and tokens that the merges do not make of their own text."""
    model, merges = definition["model"], merges_of(definition)
    odd = {key: model[key] for key in UNUSUAL if model.get(key)}
    if odd:
        raise UnsupportedError(f"a SentencePiece tokenizer with {odd} in GGUF", WAY_OUT)
    unescaped = {token["content"] for token in definition.get("added_tokens") or () if not token.get("normalized")}
    last, words = None, False
    for left, right in merges:
        if not {left, right, left + right} <= model["vocab"].keys():
            raise ValueError(f"it merges {left!r} and {right!r}, which are not all in its vocabulary")
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
