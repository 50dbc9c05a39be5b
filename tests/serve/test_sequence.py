"""How a sequence ends, and how much answer fits. No torch, no tokenizer."""

from __future__ import annotations

import pytest

from adreg.errors import ContextTooLong
from adreg.serve.sequence import Ended, Event, Generation, Sequence, Token, answer_budget
from adreg.serve.text import TextStream

WORDS = {1: "on", 2: "e ", 3: "END\ufffd", 9: ""}


def events_of(tokens: list[int], max_tokens: int, stop: tuple[str, ...] = ()) -> list[Event]:
    heard: list[Event] = []
    text = TextStream(lambda ids: "".join(WORDS[one] for one in ids), (), stop)
    sequence = Sequence(Generation((1, 2), None, max_tokens, stop=stop), text, heard.append)
    assert list(sequence.unseen) == [1, 2]
    for token in tokens:
        if sequence.accept(token, stop_ids={9}):
            break
        assert list(sequence.unseen) == [token]
    return heard


def test_the_end_token_ends_it_without_a_text_of_its_own() -> None:
    assert events_of([1, 2, 9, 1], 10) == [Token(1, "on"), Token(2, "e "), Token(9, ""), Ended("stop", 2, 3)]


def test_the_budget_ends_it_and_what_was_held_back_is_sent() -> None:
    assert events_of([1, 2, 1], 2, stop=("one !",)) == [Token(1, ""), Token(2, "one "), Ended("length", 2, 2)]


def test_a_stop_string_in_the_last_flush_is_still_a_stop() -> None:
    assert events_of([1, 3], 2, stop=("END",)) == [Token(1, "on"), Token(3, ""), Ended("stop", 2, 2)]


def test_the_budget_is_what_the_context_leaves() -> None:
    assert answer_budget(10, 4, None) == 6
    assert answer_budget(10, 4, 6) == 6
    for prompt, wanted in ((10, None), (11, None), (4, 7)):
        with pytest.raises(ContextTooLong):
            answer_budget(10, prompt, wanted)
