"""A byte-level BPE tokenizer.json as the `tokenizer.*` keys of a GGUF file. Refuses what llama.cpp would tokenise otherwise.

The pre-tokenizer is recognised by its structure; the names are llama.cpp's (src/llama-vocab.cpp).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adreg.errors import FormatError, UnsupportedError
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.strictjson import JsonObject

if TYPE_CHECKING:
    from gguf import GGUFWriter

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
MODELS = "adreg writes byte-level BPE tokenizers; use --to safetensors"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class PreTokenizer:
    """A pre-tokenizer of llama.cpp: its steps, and what it implies for the rest of the tokenizer.

    A `normalizer` is accepted as llama.cpp's converter does; llama.cpp itself does not normalise.
    """

    name: str
    steps: tuple[str, ...]
    normalizer: str | None = None
    ignore_merges: bool = False


PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", ("bytes+words",)),
    PreTokenizer("smollm", ("digits", "bytes+words")),
    PreTokenizer("llama-bpe", (WORDS + r"\p{N}{1,3}" + REST, "bytes"), ignore_merges=True),
    PreTokenizer("qwen2", (WORDS + r"\p{N}" + REST, "bytes"), normalizer="NFC"),
)


def write_tokenizer(writer: GGUFWriter, base: Checkpoint, rows: int, template: str | None) -> None:
    """Write the tokenizer of `base` for an embedding table of `rows` rows, and the chat template.

    Raises `UnsupportedError` for a tokenizer of another kind, `FormatError` for ids beyond the table.
    """
    from gguf import SpecialVocab

    definition = base.tokenizer.definition
    if definition is None:
        raise UnsupportedError(f"GGUF for {base.folder}, which has no tokenizer.json,", MODELS)
    pre = pre_tokenizer(definition)
    tokens, types = token_table(base, definition, rows)
    special = SpecialVocab(base.folder, load_merges=True, n_vocab=rows)
    special.add_special_token.setdefault("bos", False)
    special.chat_template = template
    if (prefix := base.tokenizer.config.get("add_prefix_space")) is not None:
        writer.add_add_space_prefix(prefix)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    special.add_to_gguf(writer, quiet=True)


def pre_tokenizer(definition: JsonObject) -> str:
    """llama.cpp's name for the pre-tokenizer; an unknown one is refused with its structure."""
    model = definition.get("model") or {}
    odd = {key: model.get(key) for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout")}
    if model.get("type") != "BPE" or any(odd.values()):
        raise UnsupportedError(f"a GGUF tokenizer of type {model.get('type')} with {odd}", MODELS)
    steps = tuple(_step(part) for part in _parts(definition.get("pre_tokenizer")))
    normalizers = [part["type"] for part in _parts(definition.get("normalizer"), "normalizers")]
    merges = bool(model.get("ignore_merges"))
    for known in PRE_TOKENIZERS:
        expected = [known.normalizer] if known.normalizer else []
        if (steps, normalizers, merges) == (known.steps, expected, known.ignore_merges):
            return known.name
    shown = json.dumps({key: definition.get(key) for key in ("normalizer", "pre_tokenizer")}, ensure_ascii=False)
    raise UnsupportedError(f"the pre-tokenizer {shown} (ignore_merges {merges}) in GGUF", "use --to safetensors")


def token_table(base: Checkpoint, definition: JsonObject, rows: int) -> tuple[list[str], list[int]]:
    """Texts and types of the ids 0 to `rows`-1; ids that no token has are `[PAD<id>]`, of type unused."""
    texts = {id_: token for token, id_ in definition["model"]["vocab"].items()}
    added = {token["id"]: token for token in definition.get("added_tokens") or []}
    texts |= {id_: token["content"] for id_, token in added.items()}
    if max(texts) >= rows:
        why = f"gives {texts[max(texts)]!r} the id {max(texts)}, and the embedding table has {rows} rows"
        raise FormatError(base.folder / "tokenizer.json", why, "T-TOK-0")
    types = [_type(added.get(id_), id_ in texts) for id_ in range(rows)]
    return [texts.get(id_, f"[PAD{id_}]") for id_ in range(rows)], types


def _type(added: JsonObject | None, known: bool) -> int:
    if not known:
        return UNUSED
    if added is None:
        return NORMAL
    return CONTROL if added["special"] or _looks_special(added["content"]) else USER_DEFINED


def _looks_special(text: str) -> bool:
    """Some models do not mark their control tokens as special; llama.cpp's converter knows them by their shape."""
    return text == "<pad>" or (text.startswith(("<|", "<｜")) and text.endswith(("|>", "｜>")))


def _parts(step: JsonObject | None, key: str = "pretokenizers") -> list[JsonObject]:
    """The steps of a sequence, however nested, or of a single step."""
    if not step:
        return []
    return [part for inner in step[key] for part in _parts(inner, key)] if step.get("type") == "Sequence" else [step]


def _step(part: JsonObject) -> str:
    """One step in a short form that only a step of the same meaning has."""
    match part:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(words)}:
            return "bytes+words" if words else "bytes"
        case {"type": "Digits", "individual_digits": True}:
            return "digits"
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return pattern
    return json.dumps(part, sort_keys=True)
