"""llama.cpp's names for pre-tokenizers, recognised by their structure. Refuses what llama.cpp would split otherwise.

The names and expressions are llama.cpp's (src/llama-vocab.cpp), which quotes the tokenizers that they come from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from adreg.errors import UnsupportedError
from adreg.formats.strictjson import JsonObject

BYTES, WORD_BYTES, DIGITS = "bytes", "bytes+words", "digits"
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
BLANKS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + BLANKS
LETTERS = r"\p{Lm}\p{Lo}\p{M}]"
CASED_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + BLANKS
MARKED = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
SIGNS = "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
HAN, KANA = "一-龥", "぀-ゟ゠-ヿ"


def cased_words(ending: str) -> str:
    """Words that end before a capital, with `ending`, as o200k and Tekken split them."""
    first, upper, lower = r"[^\r\n\p{L}\p{N}]?", rf"[\p{{Lu}}\p{{Lt}}{LETTERS}", rf"[\p{{Ll}}{LETTERS}"
    return f"{first}{upper}*{lower}+{ending}|{first}{upper}+{lower}*{ending}|"


@dataclass(frozen=True)
class PreTokenizer:
    """A pre-tokenizer of llama.cpp: its steps, and what it implies for the rest of the tokenizer.

    A `normalizer` is accepted as llama.cpp's converter does; llama.cpp itself does not normalise. `ignore_merges` None
    goes with either: the vocabularies in question hold no token that their merges do not make.
    """

    name: str
    steps: tuple[str, ...]
    normalizer: str | None = None
    ignore_merges: bool | None = False


PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", (WORD_BYTES,)),
    PreTokenizer("smollm", (DIGITS, WORD_BYTES)),
    PreTokenizer("llama-bpe", (WORDS + r"\p{N}{1,3}" + REST, BYTES), ignore_merges=True),
    PreTokenizer("dbrx", (WORDS + r"\p{N}{1,3}" + REST, BYTES)),
    PreTokenizer("qwen2", (WORDS + r"\p{N}" + REST, BYTES), normalizer="NFC"),
    PreTokenizer("gpt-4o", (cased_words(CONTRACTION + "?") + r"\p{N}{1,3}" + CASED_REST, BYTES), ignore_merges=None),
    PreTokenizer("tekken", (cased_words("") + r"\p{N}" + CASED_REST, BYTES), ignore_merges=None),
    PreTokenizer("deepseek-v3", (r"\p{N}{1,3}", f"[{HAN}{KANA}]+", MARKED + SIGNS, BYTES)),
    PreTokenizer("deepseek-coder", ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", f"[{HAN}ࠀ-一가-퟿]+", DIGITS, BYTES)),
)


def pre_tokenizer(definition: JsonObject) -> str:
    """llama.cpp's name for the pre-tokenizer of a tokenizer.json; an unknown one is refused with its structure."""
    steps = tuple(_step(part) for part in steps_of(definition.get("pre_tokenizer")))
    normalizers = [part["type"] for part in steps_of(definition.get("normalizer"), "normalizers")]
    merges = bool((definition.get("model") or {}).get("ignore_merges"))
    for known in PRE_TOKENIZERS:
        plain = not normalizers or normalizers == [known.normalizer]
        if plain and steps == known.steps and known.ignore_merges in (None, merges):
            return known.name
    shown = json.dumps({key: definition.get(key) for key in ("normalizer", "pre_tokenizer")}, ensure_ascii=False)
    raise UnsupportedError(f"the pre-tokenizer {shown} (ignore_merges {merges}) in GGUF", "use --to safetensors")


def steps_of(step: JsonObject | None, key: str = "pretokenizers") -> list[JsonObject]:
    """The steps of a sequence, however nested, or of a single step."""
    if not step:
        return []
    return [part for inner in step[key] for part in steps_of(inner, key)] if step.get("type") == "Sequence" else [step]


def _step(part: JsonObject) -> str:
    """One step in a short form that only a step of the same meaning has.

    Where an expression finds a piece for every character, removing what lies between the pieces is isolating them.
    """
    match part:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(words)}:
            return WORD_BYTES if words else BYTES
        case {"type": "Digits", "individual_digits": True}:
            return DIGITS
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return pattern
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Removed", "invert": True}:
            return pattern if pattern.endswith(BLANKS) else json.dumps(part, sort_keys=True)
    return json.dumps(part, sort_keys=True)
