"""What a sequence reads, tells and ends with, and how much answer fits. No model, no tokenizer."""

from __future__ import annotations

from collections.abc import Sequence as Listing

import numpy as np
import pytest

from adreg.errors import AdregError, ContextTooLong
from adreg.serve.engine.sequence import Sequence, answer_budget
from adreg.serve.generation import Ended, Event, Generation, Prompt, Token
from adreg.serve.sampling.sampler import Choice
from adreg.serve.text.stream import TextStream

WORDS = {1: "on", 2: "e ", 3: "END\ufffd", 9: ""}


class Script:
    """A sampler that has its tokens in advance."""

    def __init__(self, tokens: Listing[int]) -> None:
        self._tokens = tokens

    def choose(self, logits: object, generated: Listing[int]) -> Choice:
        return Choice(self._tokens[len(generated)], None)


def started(asked: Generation, tokens: Listing[int]) -> tuple[Sequence, list[Event]]:
    heard: list[Event] = []
    text = TextStream(lambda ids: "".join(WORDS[one] for one in ids), (), asked.stop)
    return Sequence(asked, text, Script(tokens), {9}, heard.append), heard


def events_of(tokens: list[int], max_tokens: int, stop: tuple[str, ...] = (), min_tokens: int = 0) -> list[Event]:
    asked = Generation((1, 2), None, max_tokens, stop=stop, min_tokens=min_tokens)
    sequence, heard = started(asked, tokens)
    row = np.zeros((1, 10), np.float32)
    assert (sequence.unread, sequence.next(2), sequence.outputs(2)) == (2, (1, 2), 1)
    ended = sequence.advance(2, row)
    for token in tokens:
        if ended:
            return [*heard, ended]
        assert (sequence.unread, sequence.next(1), sequence.outputs(1)) == (0, (token,), 1)
        ended = sequence.advance(1, row)
    raise AssertionError("it did not end")


def test_text_that_min_tokens_asks_for_is_not_searched_for_stop_strings() -> None:
    words = [1, 2, 1, 2, 1, 2]
    stopped = events_of(words, 6, stop=("one",))
    assert stopped[-1] == Ended("stop", 2, 2)
    later = events_of(words, 6, stop=("one",), min_tokens=2)
    assert later == [Token(1, "on"), Token(2, "e "), Token(1, ""), Token(2, ""), Ended("stop", 2, 4)]


def test_the_end_token_ends_it_without_a_text_of_its_own() -> None:
    assert events_of([1, 2, 9, 1], 10) == [Token(1, "on"), Token(2, "e "), Token(9, ""), Ended("stop", 2, 3)]


def test_the_budget_ends_it_and_what_was_held_back_is_sent() -> None:
    assert events_of([1, 2, 1], 2, stop=("one !",)) == [Token(1, ""), Token(2, "one "), Ended("length", 2, 2)]


def test_a_stop_string_in_the_last_flush_is_still_a_stop() -> None:
    assert events_of([1, 3], 2, stop=("END",)) == [Token(1, "on"), Token(3, ""), Ended("stop", 2, 2)]


def test_a_prompt_is_read_in_parts_and_gives_logits_at_its_end_only() -> None:
    sequence, heard = started(Generation((1, 2, 1, 2, 1), None, 1), [2])
    assert (sequence.next(3), sequence.outputs(3)) == ((1, 2, 1), 0)
    assert sequence.advance(3, np.empty((0, 10), np.float32)) is None
    assert (sequence.next(2), sequence.outputs(2)) == ((2, 1), 1)
    assert sequence.advance(2, np.zeros((1, 10), np.float32)) == Ended("length", 5, 1)
    assert heard == [Token(2, "e ")]


def test_log_probabilities_of_a_prompt_are_those_of_its_rows_however_it_is_read() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 10)).astype(np.float32)
    wanted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    prompt = (1, 2, 3, 9, 1)
    for cuts in ([5], [2, 3], [1, 1, 1, 1, 1]):
        sequence, heard = started(Generation(prompt, None, 0, prompt_logprobs=True, logprobs=1), [])
        ended = None
        for cut in cuts:
            assert ended is None
            assert sequence.outputs(cut) == cut
            ended = sequence.advance(cut, logits[sequence.read : sequence.read + cut])
        assert ended == Ended("length", 5, 0)
        (told,) = heard
        assert isinstance(told, Prompt)
        assert told.logprobs[0] is None
        for index, one in enumerate(told.logprobs[1:]):
            assert one is not None
            assert one.value == pytest.approx(wanted[index, prompt[index + 1]], abs=1e-5)
            assert one.top[0][0] == int(wanted[index].argmax())


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_prompt_whose_logits_are_no_numbers_is_an_error(poison: float) -> None:
    logits = np.zeros((3, 10), np.float32)
    logits[1, 4] = poison
    sequence, _ = started(Generation((1, 2, 3), None, 0, prompt_logprobs=True), [])
    with pytest.raises(AdregError, match="no finite logits"):
        sequence.advance(3, logits)


def test_the_budget_is_what_the_context_leaves() -> None:
    assert answer_budget(10, 4, None) == 6
    assert answer_budget(10, 4, 6) == 6
    assert answer_budget(10, 10, 0) == 0
    for prompt, wanted in ((10, None), (11, None), (4, 7), (10, 1), (11, 0)):
        with pytest.raises(ContextTooLong):
            answer_budget(10, prompt, wanted)
