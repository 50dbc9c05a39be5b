"""What a GGUF file says of the tokens of a vocabulary. Knows no kind of tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.formats.strictjson import JsonObject

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
CONTROLS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
# what llama.cpp ends an answer at, whatever the fields say (src/llama-vocab.cpp)
ENDINGS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
    "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
)  # fmt: skip
BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


@dataclass(frozen=True)
class Vocabulary:
    """The texts and types of all ids, and for SentencePiece their `scores`; `model` and `pre` are llama.cpp's names.
    `space_prefix` says whether llama.cpp puts a space before each text; None leaves it unsaid."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    space_prefix: bool | None = None


def padding(id_: int) -> str:
    """What an id is called that no token has."""
    return f"[PAD{id_}]"


def added_type(token: JsonObject) -> int:
    """The type of an added token: control, or user-defined where it stands for text."""
    return CONTROL if token.get("special") or looks_special(token["content"]) else USER_DEFINED


def looks_special(text: str) -> bool:
    """Some models do not mark their control tokens as special; llama.cpp's converter knows them by their shape."""
    return text in CONTROLS or any(text.startswith(left) and text.endswith(right) for left, right in BRACKETS)
