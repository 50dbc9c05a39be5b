"""From tokens to text as they come: never half a character, never a stop string. Plain Python, no tokenizer of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
BROKEN = "\ufffd"
PROMPT_WINDOW = 6
PATIENCE = 8


class Detokenizer:
    """Turns tokens into text piece by piece; the pieces joined are the text of all tokens.

    A token is decoded together with those of the piece before it (at first: with the end of the prompt), because many
    decoders treat the first token of a text differently. Tokens that end inside a character wait for its other bytes;
    after `PATIENCE` tokens they are taken to be no character at all.
    """

    def __init__(self, decode: Decode, prompt: Sequence[int]) -> None:
        self._decode = decode
        before = list(prompt[-PROMPT_WINDOW:])
        self._context = [] if decode(before).endswith(BROKEN) else before
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        self._waiting.append(token)
        return self._take(patience=PATIENCE)

    def finish(self) -> str:
        """What is left, without the incomplete character at its end."""
        return self._take(patience=0).rstrip(BROKEN)

    def _take(self, patience: int) -> str:
        before = self._decode(self._context)
        text = self._decode(self._context + self._waiting)
        if text.endswith(BROKEN) and len(self._waiting) <= patience:
            return ""
        piece = text[len(before) :]
        # tokens without text, such as special ones, say nothing about the next
        self._context = self._waiting if piece else self._context
        self._waiting = []
        return piece


class StopStrings:
    """Lets text through up to the first stop string, and holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        text = self._held + piece
        starts = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if starts:
            self.found, self._held = True, ""
            return text[: min(starts)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        held, self._held = self._held, ""
        return held


class TextStream:
    """The text of one sequence: a detokenizer, and the stop strings behind it."""

    def __init__(self, decode: Decode, prompt: Sequence[int], stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decode, prompt)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come; nothing follows it."""
        return self._stops.found

    def push(self, token: int, stoppable: bool = True) -> str:
        """The text that `token` completes; one that is not `stoppable` is let through unsearched."""
        piece = self._detokenizer.push(token)
        return self._stops.push(piece) if stoppable else piece

    def finish(self) -> str:
        """What was held back, now that no more tokens come."""
        return self._stops.push(self._detokenizer.finish()) + self._stops.finish()


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    longest = min(len(stop) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
