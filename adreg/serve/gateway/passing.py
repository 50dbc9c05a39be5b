"""What is read in an answer while it passes: how many tokens it cost, and whether it came to its proper end.

Nothing is changed. Of a stream only whole events go on, so that an error can follow the last one.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from adreg.serve.api.account import Usage

LARGEST = 1 << 20
DONE = b"[DONE]"


class Reader(Protocol):
    """Reads along. `usage` is as the answer tells it, and `pieces` counts what it was told in."""

    usage: Usage
    pieces: int

    def passed(self, piece: bytes, last: bool) -> bytes:
        """What of the answer may go on now that `piece` has come."""
        ...

    @property
    def ended(self) -> bool:
        """Whether what has passed is a whole answer, where HTTP says that it is."""
        ...


class WholeReader:
    """An answer that is one JSON object."""

    def __init__(self) -> None:
        self.usage, self.pieces, self._text = Usage(), 0, b""
        self.ended = True

    def passed(self, piece: bytes, last: bool) -> bytes:
        if len(self._text) <= LARGEST:
            self._text += piece
        if last and len(self._text) <= LARGEST:
            _note_usage(self.usage, self._text)
        return piece


class StreamReader:
    """Server-sent events, the last of which is `[DONE]`, or an error."""

    def __init__(self) -> None:
        self.usage, self.pieces, self._held = Usage(), 0, b""
        self.ended = False

    def passed(self, piece: bytes, last: bool) -> bytes:
        text = self._held + piece
        end = len(text) if last or len(text) > LARGEST else _end_of_events(text)
        self._held = text[end:]
        for line in text[:end].splitlines():
            if line.startswith(b"data:"):
                self._read(line[5:].strip())
        return text[:end]

    def _read(self, data: bytes) -> None:
        if data == DONE or data.startswith(b'{"error"'):
            self.ended = True
        elif b'"usage":' in data and b'"usage":null' not in data:
            _note_usage(self.usage, data)
        else:
            self.pieces += 1


def _end_of_events(text: bytes) -> int:
    """Where the last whole event ends; 0 where there is none."""
    found = ((text.rfind(mark), len(mark)) for mark in (b"\n\n", b"\r\n\r\n"))
    return max((at + length for at, length in found if at >= 0), default=0)


def _note_usage(usage: Usage, text: bytes) -> None:
    """Keep what OpenAI's `usage` object says; an upstream's nonsense says nothing."""
    try:
        told = json.loads(text)["usage"]
        details = told.get("prompt_tokens_details") or {}
        counts = [_count(told, "prompt_tokens"), _count(told, "completion_tokens"), _count(details, "cached_tokens")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    usage.prompt, usage.completion, usage.cached = counts


def _count(told: dict[str, Any], name: str) -> int:
    """Raises `ValueError` for what counts nothing."""
    found = told.get(name) or 0
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 1 << 31:
        raise ValueError(name)
    return found
