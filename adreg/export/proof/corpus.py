"""The texts that every GGUF file is verified with: lines in many scripts, odd white space, passages, conversations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

BLANKS = (" ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", " \n", "\n ", "\t \n", "\u00a0", "\u2003", "\u3000")
CASES = ("{blank}", "{blank}word", "word{blank}", "one{blank}two", "1{blank}2", "。{blank}!")
DECOMPOSED = ("e\u0301te\u0301 and A\u030angstro\u0308m", "\u212bngstr\u00f6m, \u212a", "\u1100\u1161\u11a8")
# plain ASCII: llama.cpp's server gives no probabilities for half a character
PASSAGES = (
    "The lighthouse keeper wrote one line a day in his book. On the first of March he noted: 'Fog until noon, then a "
    "ship with red sails; nobody waved.' Years later a child found the book and asked what the ship was called.",
    "Question: How do I keep bread fresh for a week? Answer: Wrap it in a clean cloth, keep it away from the sun, and do "
    "not cut more slices than you will eat today. If it turns hard, toast it.",
    "def area(width: float, height: float) -> float:\n    return width * height\n\nrooms = {'kitchen': (4.2, 3.0), "
    "'hall': (6.5, 1.8)}\nfor name, (width, height) in rooms.items():\n    print(name, area(width, height))\n",
)
CONVERSATIONS = (
    [{"role": "user", "content": "Hello, where is my parcel?"}],
    [
        {"role": "system", "content": "You answer in one sentence."},
        {"role": "user", "content": "What is 12 * 12?\nThink first."},
    ],
    [
        {"role": "user", "content": "你好！🦊"},
        {"role": "assistant", "content": "你好，有什么可以帮您？"},
        {"role": "user", "content": "  Two spaces before, a quote \" and a backslash \\ after.  "},
    ],
)  # fmt: skip


def corpus(special_tokens: Sequence[str], decomposed: bool = True) -> list[str]:
    """More than 200 lines to tokenise: sentences, code, emoji, runs of white space, and texts with special tokens.

    `decomposed` adds characters that Unicode would compose.
    """
    written = Path(__file__).with_name("corpus.txt").read_text(encoding="utf-8").split("\n")
    blanks = [case.format(blank=blank) for blank in BLANKS for case in CASES]
    marked = [f"before {token} after{token}{token}\n" for token in special_tokens[:8]]
    return [*filter(None, written), *blanks, *marked, *(DECOMPOSED if decomposed else ())]
