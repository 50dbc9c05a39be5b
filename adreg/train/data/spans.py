"""Rows as the text the model reads, and where in it the model's own words stand. Knows templates, not token ids.

A conversation is rendered as it is. Where its words stand is known from a rendering of its shape, with marks in the place
of all words: what lies between the marks must, with the words put back, give the very text. Templates need no
`{% generation %}` tags so; where they have some, these must agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from adreg.errors import DataError, UsageError
from adreg.formats.text.chat_template import GENERATED
from adreg.formats.text.renderer import Refusal
from adreg.train.data.rendering import TOO_MUCH, TemplateProcess
from adreg.train.data.rows import Row
from adreg.train.data.turns import TEXT, Turn

CLEANINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.strip,
    str.rstrip,
    str.lstrip,
    lambda words: words.strip("\n"),
    lambda words: words.lstrip("\n"),
)
GENERATION = re.compile(r"\{%[-+]?\s*generation\b")
Shape = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start:end` of the text are learned; `stop` is the token that ends them."""

    start: int
    end: int
    stop: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """`text` as the model reads it; `special` says whether the tokenizer still adds its own special tokens to it."""

    text: str
    spans: tuple[Span, ...]
    special: bool


class Renderer:
    """Renders rows by one template. `controls` are the tokens that no text may hold, `eos` is the one that ends texts."""

    def __init__(
        self, template: str, tokens: dict[str, str], eos: str, controls: Sequence[str], process: TemplateProcess
    ) -> None:
        self.template, self.tokens, self.eos, self.process = template, tokens, eos, process
        ordered = sorted({eos, *controls}, key=len, reverse=True)
        self.controls = re.compile("|".join(map(re.escape, ordered)))
        self.starts = {control[0] for control in ordered}
        self.pieces: dict[Shape, list[str] | None] = {}
        self.stop_of = lru_cache(maxsize=1024)(self._stop_of)

    def render(self, rows: Sequence[Row]) -> list[Rendered]:
        """The text and spans of each row. Raises `DataError` where words hold control tokens or the template balks."""
        for row in rows:
            self._refuse_controls(row)
        talks = [row for row in rows if row.turns[0].role != TEXT]
        rendered = iter(self._talks(talks))
        return [self._text(row) if row.turns[0].role == TEXT else next(rendered) for row in rows]

    def prompt(self, turns: Sequence[Turn]) -> str:
        """`turns` as a question to the model, up to where its answer begins. Raises `UsageError` where it is refused."""
        [text] = self.process.render(self.template, self.tokens, [turns], prompt=True)
        if isinstance(text, Refusal):
            raise UsageError(f"the chat template refuses these messages: {text.why}")
        return text

    def asks_alike(self, row: Row) -> bool:
        """Whether a model is asked for the last answer of `row` with the very text that stands before it in training."""
        try:
            return self.render([row])[0].text.startswith(self.prompt(row.turns[:-1]))
        except UsageError:
            return False

    def _text(self, row: Row) -> Rendered:
        text = row.turns[0].content + self.eos
        return Rendered(text, (Span(0, len(text), self.eos),), special=True)

    def _talks(self, rows: Sequence[Row]) -> list[Rendered]:
        self._learn_shapes(rows)
        rendered = []
        for row, text in zip(rows, self._rendered(rows, [row.turns for row in rows]), strict=True):
            pieces = self.pieces[_shape(row)]
            words = _fitting(pieces, row.turns, text) if pieces else None
            rendered.append(self._spanned(row, pieces, words) if pieces and words else self._by_answers(row, text))
        return rendered

    def _rendered(self, rows: Sequence[Row], talks: Sequence[Sequence[Turn]]) -> list[str]:
        texts = self.process.render(self.template, self.tokens, talks)
        for row, text in zip(rows, texts, strict=True):
            if isinstance(text, Refusal):
                raise _refused(row, text)
        return [str(text) for text in texts]

    def _learn_shapes(self, rows: Sequence[Row]) -> None:
        """Find out what the template writes around the words of conversations of each new shape."""
        new = {shape: row for row in rows if (shape := _shape(row)) not in self.pieces}
        masked = [[Turn(role, _mark(place)) for place, role in enumerate(shape)] for shape in new]
        for (shape, row), text in zip(new.items(), self.process.render(self.template, self.tokens, masked), strict=True):
            if isinstance(text, Refusal) and text.why == TOO_MUCH:
                raise _refused(row, text)
            self.pieces[shape] = None if isinstance(text, Refusal) else _cut(text, range(len(shape)))
        if GENERATION.search(self.template):
            shown = self.process.render(self.template, self.tokens, masked, marked=True)
            for (shape, row), text in zip(new.items(), shown, strict=True):
                _agree(row, shape, str(text))

    def _by_answers(self, row: Row, text: str) -> Rendered:
        """For a template that looks at the words of others: marks in the place of the answers only."""
        answers = [place for place, turn in enumerate(row.turns) if turn.role == "assistant"]
        masked = [Turn(turn.role, _mark(place)) if place in answers else turn for place, turn in enumerate(row.turns)]
        [shown] = self._rendered([row], [masked])
        pieces = _cut(shown, answers)
        said = [row.turns[place] for place in answers]
        words = _fitting(pieces, said, text) if pieces else None
        if pieces is None or words is None:
            why = "the chat template changes the assistant's words, so adreg cannot tell which tokens are its own"
            raise row.fault(why, "change the row, or choose another data.template")
        kept = [place for place, answer in enumerate(answers) if answer >= row.learn_from]
        return self._joined(row, pieces, words, kept)

    def _spanned(self, row: Row, pieces: list[str], words: list[str]) -> Rendered:
        turns = enumerate(row.turns)
        kept = [place for place, turn in turns if turn.role == "assistant" and place >= row.learn_from]
        return self._joined(row, pieces, words, kept)

    def _joined(self, row: Row, pieces: list[str], words: list[str], learned: list[int]) -> Rendered:
        """Each learned word with the control token that follows it; the last gets eos if there is none."""
        text, spans, wanted = pieces[0], [], set(learned)
        for place, (word, after) in enumerate(zip(words, pieces[1:], strict=True)):
            if place in wanted:
                stop, length = self.stop_of(after)
                if not stop and place == len(words) - 1:
                    after, stop, length = self.eos, self.eos, len(self.eos)
                if not stop:
                    why = "the chat template puts no control token after an answer that is not the last"
                    raise row.fault(why, "choose a data.template with an end of turn, such as plain or qa")
                spans.append(Span(len(text), len(text) + len(word) + length, stop))
            text += word + after
        return Rendered(text, tuple(spans), special=False)

    def _stop_of(self, after: str) -> tuple[str, int]:
        """The control token at the start of `after` (one space may stand before it), and where it ends."""
        found = self.controls.match(after, 1 if after.startswith(" ") else 0)
        return (found[0], found.end()) if found else ("", 0)

    def _refuse_controls(self, row: Row) -> None:
        for turn in row.turns:
            if any(start in turn.content for start in self.starts) and (found := self.controls.search(turn.content)):
                fix = "take it out: it would end or begin turns where there are none"
                raise row.fault(f"its {turn.role} turn holds the control token {found[0]}", fix)


def _refused(row: Row, text: Refusal) -> DataError:
    return row.fault(f"the chat template refuses these messages: {text.why}", "change the row, or data.template")


def _shape(row: Row) -> Shape:
    return tuple([turn.role for turn in row.turns])


def _mark(number: int) -> str:
    return f"\ue000{number}\ue001"


def _cut(text: str, marks: Sequence[int]) -> list[str] | None:
    """What stands around the marks, or None unless each is there once, in order."""
    parts = re.split("\ue000(\\d+)\ue001", text)
    return parts[::2] if parts[1::2] == [str(mark) for mark in marks] else None


def _fitting(pieces: Sequence[str], turns: Sequence[Turn], text: str) -> list[str] | None:
    """The words between `pieces` that make `text`: as they are, or without white space before or behind them."""
    for clean in CLEANINGS:
        words = [clean(turn.content) for turn in turns]
        parts = [part for pair in zip(pieces, words, strict=False) for part in pair]
        if "".join(parts) + pieces[-1] == text:
            return words
    return None


def _agree(row: Row, shape: Shape, shown: str) -> None:
    """Raise `DataError` where the template's own generation tags mark other turns than the assistant's."""
    before, after = GENERATED[0], GENERATED[1]
    parts = re.findall(f"{before}(.*?){after}", shown, re.DOTALL)
    tagged = {int(mark) for part in parts for mark in re.findall("\ue000(\\d+)\ue001", part)}
    answers = {place for place, role in enumerate(shape) if role == "assistant"}
    if tagged and tagged != answers:
        odd = min(tagged ^ answers) + 1
        whose = "marks" if odd - 1 in tagged else "leaves out"
        raise row.fault(f"the template's generation tags {whose} turn {odd}, of the {shape[odd - 1]}", "mend the template")
