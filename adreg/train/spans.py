"""One row as the text the model reads, and where in it the model's own words stand. Knows templates, not token ids.

The words are found by rendering the conversation a second time with marks in their place, so that no template needs
`{% generation %}` tags; a template that changes the words is noticed, because the pieces must give the same text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adreg.errors import UnsupportedError, UsageError
from adreg.formats.text.chat_template import render_chat
from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.train.forms import Turn
from adreg.train.rows import Row

CLEANINGS: tuple[Callable[[str], str], ...] = (str, str.strip)


@dataclass(frozen=True)
class Span:
    """Characters `start:end` of the text are learned; `stop` is the token that ends them, at `end - len(stop)`."""

    start: int
    end: int
    stop: str


@dataclass(frozen=True)
class Rendered:
    """`text` as the model reads it; `special` says whether the tokenizer still adds its own special tokens to it."""

    text: str
    spans: tuple[Span, ...]
    special: bool


class Renderer:
    """Renders rows for one base: by its chat template, or joined plainly with the end-of-text token after answers."""

    def __init__(self, tokenizer: TokenizerFiles) -> None:
        eos = tokenizer.special_token("eos_token")
        if not eos:
            raise UnsupportedError(f"a tokenizer without eos_token ({tokenizer.folder})", "name one in tokenizer_config.json")
        self.tokenizer, self.eos = tokenizer, eos
        added = (tokenizer.definition or {}).get("added_tokens") or []
        controls = {eos, *(token["content"] for token in added if token.get("special"))}
        self.controls = re.compile("|".join(map(re.escape, sorted(controls, key=len, reverse=True))))

    def render(self, row: Row) -> Rendered:
        """The text and spans of `row`. Raises `DataError` where its words hold control tokens or the template balks."""
        if row.turns[0].role == "text":
            return _joined([*row.turns], "", self.eos)
        for turn in row.turns:
            if control := self.controls.search(turn.content):
                raise row.fault(f"its {turn.role} turn holds the control token {control[0]}")
        if self.tokenizer.chat_template is None:
            return _joined(row.turns, row.joiner, self.eos)
        try:
            return self._templated(row)
        except UsageError as error:
            raise row.fault(str(error)) from error

    def _templated(self, row: Row) -> Rendered:
        text, marks = self._chat(row.turns), [turn.role == "assistant" for turn in row.turns]
        masked = [Turn(turn.role, _mark(i)) if marks[i] else turn for i, turn in enumerate(row.turns)]
        pieces = re.split("|".join(_mark(i) for i, marked in enumerate(marks) if marked), self._chat(masked))
        for clean in CLEANINGS:
            words = [clean(turn.content) for turn in row.turns if turn.role == "assistant"]
            if len(pieces) == len(words) + 1 and _interleaved(pieces, words) == text:
                return self._with_spans(row, pieces, words)
        raise row.fault("the chat template changes the assistant's words, so adreg cannot tell which tokens are its own")

    def _chat(self, turns: Sequence[Turn]) -> str:
        return render_chat(self.tokenizer, [{"role": turn.role, "content": turn.content} for turn in turns])

    def _with_spans(self, row: Row, pieces: list[str], words: list[str]) -> Rendered:
        """Each answer with the control token that the template puts after it; the last one gets eos if it has none."""
        text, spans = pieces[0], []
        for number, (answer, after) in enumerate(zip(words, pieces[1:], strict=True), 1):
            control = self.controls.match(after, 1 if after.startswith(" ") else 0)
            if control is None and number == len(words):
                after, control = self.eos, self.controls.match(self.eos)
            if control is None:
                raise row.fault("the chat template puts no control token after an answer that is not the last")
            start = len(text)
            spans.append(Span(start, start + len(answer) + control.end(), control[0]))
            text += answer + after
        return Rendered(text, tuple(spans), special=False)


def _joined(turns: Sequence[Turn], joiner: str, eos: str) -> Rendered:
    text, spans = "", []
    for turn in turns:
        start, learned = len(text), turn.role in ("assistant", "text")
        text += turn.content + (eos if learned else joiner)
        if learned:
            spans.append(Span(start, len(text), eos))
    return Rendered(text, tuple(spans), special=True)


def _mark(number: int) -> str:
    return f"\ue000{number}\ue001"


def _interleaved(pieces: list[str], words: list[str]) -> str:
    return "".join(piece + word for piece, word in zip(pieces, [*words, ""], strict=True))
