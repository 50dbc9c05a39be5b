from pathlib import Path

import numpy as np
import pytest

from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.train.config import DataSettings
from adreg.train.data.encode import IGNORED, Encoder
from adreg.train.data.lengths import Fitter
from adreg.train.data.rows import Row
from adreg.train.data.turns import Turn

LIMIT, END = 40, 2
WORDS = " ".join(f"word{number}" for number in range(60))


@pytest.fixture(scope="module")
def encoder(tokenizer_folder):
    return Encoder(TokenizerFiles(tokenizer_folder))


def row(*turns, learn_from=0):
    return Row(Path("r.jsonl"), 1, tuple(Turn(*turn) for turn in turns), learn_from)


def fitted(encoder, policy, *rows, limit=LIMIT):
    fitter = Fitter(encoder, DataSettings(max_tokens=limit, too_long=policy))
    groups = list(fitter.fit(rows, encoder.encode(rows), len(rows)))
    assert all(len(example.ids) <= limit for group in groups for example in group)
    return fitter, groups


def test_dropped_rows_are_counted(encoder):
    fitter, groups = fitted(encoder, "drop", row(("user", WORDS), ("assistant", "A")))
    assert (groups, dict(fitter.dropped), fitter.whole) == ([], {"too long": 1}, 0)


def test_a_trimmed_prompt_keeps_its_opening_its_end_and_the_whole_answer(encoder):
    fitter, [[example]] = fitted(encoder, "trim_prompt", row(("user", WORDS), ("assistant", "The answer.")), limit=60)
    text = encoder.decode(example.ids)
    assert text.startswith("<|im_start|>system\nYou are")
    assert "<|im_start|>user\n" in text and text.endswith("word59<|im_end|>\n<|im_start|>assistant\nThe answer.<|im_end|>")
    assert encoder.decode(example.labels[example.labels != IGNORED]) == "The answer.<|im_end|>"
    assert len(example.ids) > 50
    assert (dict(fitter.changed), fitter.whole) == ({"prompt trimmed": 1}, 1)


def test_old_turns_go_before_the_last_question_does(encoder):
    talk = row(("system", "S"), ("user", WORDS), ("assistant", "a"), ("user", "Why?"), ("assistant", "B"))
    _, [[example]] = fitted(encoder, "trim_prompt", talk)
    assert encoder.decode(example.ids) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nB<|im_end|>"
    )


def test_as_many_turns_go_as_must_and_a_head_of_characters_in_many_tokens_goes_whole(encoder):
    turns = [turn for number in range(20) for turn in (("user", f"Q{number}"), ("assistant", f"A{number}"))]
    _, [[example]] = fitted(encoder, "trim_prompt", row(("system", "S"), *turns))
    assert encoder.decode(example.ids).startswith("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1")
    assert encoder.decode(example.ids).endswith("A19<|im_end|>")
    pictures = row(("system", "S"), ("user", "𓀀𓀁𓀂𓀃𓀄𓀅𓀆𓀇 why?"), ("assistant", "B"))
    [whole] = encoder.encode([pictures])
    _, [[example]] = fitted(encoder, "trim_prompt", pictures, limit=len(whole.ids) - 1)
    assert "�" not in encoder.decode(example.ids) and "𓀇 why?" in encoder.decode(example.ids)


def test_an_answer_that_is_too_long_itself_is_dropped_by_that_name(encoder):
    fitter, groups = fitted(encoder, "trim_prompt", row(("user", "Q"), ("assistant", WORDS)))
    assert (groups, dict(fitter.dropped)) == ([], {"answer too long": 1})


def test_both_answers_of_a_trimmed_pair_still_share_their_prompt(encoder):
    pair = [row(("user", WORDS), ("assistant", said), learn_from=1) for said in ("Yes.", "No, never in my whole life.")]
    _, [[chosen, rejected]] = fitted(encoder, "trim_prompt", *pair, limit=70)
    starts = [int(np.argmax(example.labels != IGNORED)) for example in (chosen, rejected)]
    assert starts[0] == starts[1] > 40
    assert (chosen.ids[: starts[0]] == rejected.ids[: starts[0]]).all()


def test_pieces_of_a_text_learn_each_of_its_tokens_once(encoder):
    text = row(("text", WORDS))
    [whole] = encoder.encode([text])
    fitter, groups = fitted(encoder, "split", text)
    learned = [token for [piece] in groups for token in piece.labels.tolist() if token != IGNORED]
    assert learned == whole.ids[1:].tolist()
    assert sum(piece.ids[-1] == END for [piece] in groups) == 1
    assert all(piece.labels[0] == IGNORED for [piece] in groups)
    assert dict(fitter.changed) == {"split": 1}


def test_a_cut_answer_is_learned_without_an_end(encoder):
    fitter, [[example]] = fitted(encoder, "cut", row(("user", "Q"), ("assistant", WORDS)))
    assert len(example.ids) == LIMIT and example.labels[-1] == example.ids[-1] != END
    assert (dict(fitter.changed), fitter.whole) == ({"cut": 1}, 0)
    fitter, groups = fitted(encoder, "cut", row(("user", WORDS), ("assistant", "A")))
    assert (groups, dict(fitter.dropped)) == ([], {"prompt too long": 1})
