"""What becomes of rows with more tokens than `data.max_tokens`: dropped, trimmed, split, cut, or an error. Never silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from adreg.errors import DataError
from adreg.train.config import DataSettings
from adreg.train.data.encode import IGNORED, Encoder, Example
from adreg.train.data.rows import Row
from adreg.train.data.turns import TEXT, Turn

ATTEMPTS = 8
Group = list[Example]


class Fitter:
    """Makes groups of examples (one, or the two of a pair) fit. `dropped` and `changed` count what it did and why."""

    def __init__(self, encoder: Encoder, settings: DataSettings) -> None:
        self.encoder, self.limit, self.policy = encoder, settings.max_tokens, settings.too_long
        self.dropped, self.changed = Counter[str](), Counter[str]()
        self.whole = 0

    def fit(self, rows: Sequence[Row], examples: Sequence[Example], size: int) -> Iterator[Group]:
        """The groups of `size` examples that are left, in order; a split text becomes several."""
        for at in range(0, len(rows), size):
            group, own = list(examples[at : at + size]), rows[at : at + size]
            if max(len(example.ids) for example in group) <= self.limit:
                self.whole += 1
                yield group
            else:
                yield from self._shortened(own, group)

    def _shortened(self, rows: Sequence[Row], group: Group) -> Iterator[Group]:
        is_text = rows[0].turns[0].role == TEXT
        if self.policy == "error":
            raise self._too_long(rows[0], group)
        if self.policy == "split" and not is_text:
            fix = "--set data.too_long=drop, trim_prompt or cut"
            raise rows[0].fault(f"has {_longest(group)} tokens, and only texts can be split", fix)
        if self.policy == "split":
            pieces = self._pieces(group[0])
            self.changed["split"] += 1
            self.whole += 1
            yield from ([piece] for piece in pieces)
        elif self.policy == "cut":
            yield from self._cut(group)
        elif self.policy == "trim_prompt" and not is_text:
            yield from self._trimmed(rows, group)
        else:
            self.dropped["too long"] += 1

    def _too_long(self, row: Row, group: Group) -> DataError:
        fix = f"--set data.max_tokens={_longest(group)}, or another data.too_long: drop, trim_prompt, split or cut"
        return row.fault(f"has {_longest(group)} tokens; the limit is {self.limit}", fix)

    def _pieces(self, example: Example) -> list[Example]:
        """Pieces of the limit's length; each begins with the last token of the one before, so that every token is learned."""
        starts = range(0, len(example.ids) - 1, self.limit - 1)
        parts = [slice(start, start + self.limit) for start in starts]
        return [replace(example, ids=example.ids[part], labels=_unlearned(example.labels[part])) for part in parts]

    def _cut(self, group: Group) -> Iterator[Group]:
        """The first tokens of each; its end is gone, and so is not learned."""
        cut = [_until_learned(example, self.limit) for example in group]
        if any(example is None for example in cut):
            self.dropped["prompt too long"] += 1
        else:
            self.changed["cut"] += 1
            yield [example for example in cut if example is not None]

    def _trimmed(self, rows: Sequence[Row], group: Group) -> Iterator[Group]:
        """Without the oldest turns, and then without the head of the oldest question, as much as is needed."""
        for _ in range(len(rows[0].turns) + ATTEMPTS):
            turns = self._less(rows[0], _longest(group) - self.limit)
            if turns is None:
                break
            shortened = len(rows[0].turns) - len(turns)
            shared = max(rows[0].learn_from - shortened, 0)
            trimmed = [replace(row, turns=turns[:shared] + row.turns[row.learn_from :], learn_from=shared) for row in rows]
            rows = trimmed if len(rows) == 2 else [replace(rows[0], turns=turns, learn_from=shared)]
            group = self.encoder.encode(rows)
            if _longest(group) <= self.limit:
                self.changed["prompt trimmed"] += 1
                self.whole += 1
                yield group
                return
        self.dropped["answer too long"] += 1

    def _less(self, row: Row, excess: int) -> tuple[Turn, ...] | None:
        """The turns of `row` with about `excess` tokens less before the last answer, or None where nothing may go."""
        opening = 1 if row.turns[0].role == "system" else 0
        asked = [place for place, turn in enumerate(row.turns) if turn.role == "user" and place >= opening]
        if len(asked) > 1 and asked[0] < asked[1] and (row.learn_from == 0 or asked[1] < row.learn_from):
            return row.turns[:opening] + row.turns[asked[1] :]
        if not asked:
            return None
        question = row.turns[asked[0]]
        offsets = self.encoder.tokenizer.encode(question.content, add_special_tokens=False).offsets
        start = next((start for start, _ in offsets[excess:] if start > 0), None)
        if start is None:
            return None
        rest = Turn(question.role, question.content[start:])
        return (*row.turns[: asked[0]], rest, *row.turns[asked[0] + 1 :])


def _longest(group: Group) -> int:
    return max(len(example.ids) for example in group)


def _until_learned(example: Example, limit: int) -> Example | None:
    """The first `limit` tokens, up to the last learned one."""
    if len(example.ids) <= limit:
        return example
    learned = np.flatnonzero(example.labels[:limit] != IGNORED)
    if not len(learned):
        return None
    end = int(learned[-1]) + 1
    return replace(example, ids=example.ids[:end], labels=example.labels[:end])


def _unlearned(labels: np.ndarray[tuple[int], np.dtype[np.int32]]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    own = labels.copy()
    own[0] = IGNORED
    return own
