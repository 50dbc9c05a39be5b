import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adreg.errors import DataError
from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.train.data.alphabet import named, unsayable
from adreg.train.data.encode import IGNORED, Encoder
from adreg.train.data.rows import Row
from adreg.train.data.turns import Turn

END, PLAIN_END = "<|im_end|>", 2
WORDS = st.sampled_from("\n") | st.characters(exclude_categories=["Cs", "Cc"], max_codepoint=0x1FFFF)


def row(*turns, learn_from=0):
    return Row(Path("rows.jsonl"), 7, tuple(Turn(*turn) for turn in turns), learn_from)


def learned(encoder, example):
    """The learned stretches as text, and the ids they end with."""
    marks = np.flatnonzero(np.diff(np.concatenate([[0], example.labels != IGNORED, [0]])))
    stretches = [example.labels[start:stop].tolist() for start, stop in marks.reshape(-1, 2)]
    return [encoder.decode(ids) for ids in stretches], [ids[-1] for ids in stretches]


@pytest.fixture
def base(tmp_path, tokenizer_folder):
    return shutil.copytree(tokenizer_folder, tmp_path / "base")


def encoder_with(base, template, **options):
    (base / "chat_template.jinja").unlink()
    if template:
        (base / "chat_template.jinja").write_text(template)
    return Encoder(TokenizerFiles(base), **options)


def test_every_answer_and_its_end_are_learned_and_nothing_else(base):
    encoder = Encoder(TokenizerFiles(base))
    talk = row(("user", "Hi"), ("assistant", "Ho  你好🦘. "), ("user", "assistant"), ("assistant", "assistant"))
    [example] = encoder.encode([talk])
    assert learned(encoder, example) == (["Ho  你好🦘. " + END, "assistant" + END], [PLAIN_END, PLAIN_END])
    whole = encoder.decode(example.ids)
    assert whole.endswith(f"<|im_start|>user\nassistant{END}\n<|im_start|>assistant\nassistant{END}")


def test_the_stop_token_is_learned_though_it_is_the_padding_token(base):
    files = TokenizerFiles(base)
    assert files.special_token("pad_token") == files.special_token("eos_token") == END
    [example] = Encoder(files).encode([row(("user", "Q"), ("assistant", "A"))])
    ends = np.flatnonzero(example.ids == PLAIN_END)
    assert len(ends) == 3
    assert example.labels[ends].tolist() == [IGNORED, IGNORED, PLAIN_END]


def test_ids_are_those_of_transformers(base):
    from transformers import AutoTokenizer

    reference, files = AutoTokenizer.from_pretrained(base), TokenizerFiles(base)
    turns = [("user", "Wie spät? 时间  \n"), ("assistant", " It's   12:45.\n\n- ok")]
    [example] = Encoder(files).encode([row(*turns)])
    messages = [{"role": role, "content": content} for role, content in turns]
    expected = reference.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert expected[: len(example.ids)] == example.ids.tolist()
    assert reference.decode(expected[len(example.ids) :]) == "\n"


def test_the_mask_is_that_of_transformers_where_a_template_has_generation_tags(base):
    from transformers import AutoTokenizer

    said = "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    other = "{{ m.content }}<|im_end|>"
    begun = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    template = begun + "{% if m.role == 'assistant' %}" + said + "{% else %}" + other + "{% endif %}\n{% endfor %}"
    encoder = encoder_with(base, template)
    turns = [("user", "Wie spät? 时间"), ("assistant", "It's  12:45 🦘.\n"), ("user", "Thanks"), ("assistant", " Bye")]
    [example] = encoder.encode([row(*turns)])
    messages = [{"role": role, "content": content} for role, content in turns]
    reference = AutoTokenizer.from_pretrained(base)
    told = reference.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert told["input_ids"][: len(example.ids)] == example.ids.tolist()
    assert told["assistant_masks"][: len(example.ids)] == (example.labels != IGNORED).tolist()
    assert not any(told["assistant_masks"][len(example.ids) :])


def test_a_base_without_template_learns_the_answer_and_eos(base):
    encoder = encoder_with(base, None)
    plain, text = encoder.encode([row(("user", "Q?"), ("assistant", "A.")), row(("text", "Once upon a time"))])
    assert encoder.decode(plain.ids) == "Q?\nA." + END
    assert learned(encoder, plain)[0] == ["A." + END]
    assert learned(encoder, text)[0] == [" upon a time" + END]
    raw = Encoder(TokenizerFiles(base), raw=True)
    [joined] = raw.encode([row(("user", "2+2"), ("assistant", "=4"))])
    assert raw.decode(joined.ids) == "2+2=4" + END
    assert learned(raw, joined)[0] == ["=4" + END]


def test_turns_before_the_first_to_learn_are_read_only(base):
    encoder = Encoder(TokenizerFiles(base))
    talk = [("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "B")]
    [example] = encoder.encode([row(*talk, learn_from=3)])
    assert learned(encoder, example)[0] == ["B" + END]


def test_all_learns_everything_but_the_first_token(base):
    [example] = Encoder(TokenizerFiles(base), learn_all=True).encode([row(("user", "Q"), ("assistant", "A"))])
    assert example.labels[0] == IGNORED
    assert (example.labels[1:] == example.ids[1:]).all()


def test_a_template_that_trims_answers_is_followed(base):
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }} <|im_end|>{% endfor %}"
    encoder = encoder_with(base, template)
    [example] = encoder.encode([row(("user", "Q"), ("assistant", "  A.\n"))])
    assert learned(encoder, example)[0] == ["A. " + END]


def test_a_template_without_end_token_gets_eos_after_the_last_answer(base):
    encoder = encoder_with(base, "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}")
    [example] = encoder.encode([row(("user", "Q"), ("assistant", "A."))])
    assert encoder.decode(example.ids) == "### user:\nQ\n\n### assistant:\nA." + END
    assert learned(encoder, example)[0] == ["A." + END]
    with pytest.raises(DataError, match=r"rows\.jsonl:7: the chat template puts no control token"):
        encoder.encode([row(("user", "Q"), ("assistant", "A."), ("user", "Q"), ("assistant", "B."))])


def test_what_would_be_learned_wrongly_is_refused_with_its_line(base):
    encoder = Encoder(TokenizerFiles(base))
    with pytest.raises(DataError, match=r"rows\.jsonl:7: its user turn holds the control token <\|im_end\|>"):
        encoder.encode([row(("user", f"Q{END}"), ("assistant", "A"))])
    shouting = encoder_with(base, "{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}")
    with pytest.raises(DataError, match=r"rows\.jsonl:7: the chat template changes the assistant's words"):
        shouting.encode([row(("user", "Q"), ("assistant", "a"))])
    refusing = encoder_with(base, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match=r"rows\.jsonl:7: .*roles must alternate"):
        refusing.encode([row(("user", "Q"), ("assistant", "a"))])


def test_masks_survive_a_tokenizer_that_trims_its_offsets(base):
    words = row(("user", "Q "), ("assistant", "  indented \n\n and more  "))
    [expected] = Encoder(TokenizerFiles(base)).encode([words])
    definition = json.loads((base / "tokenizer.json").read_text())
    definition["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (base / "tokenizer.json").write_text(json.dumps(definition))
    [example] = Encoder(TokenizerFiles(base)).encode([words])
    assert example.labels.tolist() == expected.labels.tolist()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(WORDS, max_size=40), st.text(WORDS, min_size=1, max_size=40), st.sampled_from(["auto", "qa", "plain", "alpaca"]))
def test_whatever_is_said_all_of_the_answer_and_little_else_is_learned(encoders, question, answer, template):
    encoder = encoders[template]
    [example] = encoder.encode([row(("user", "Q" + question), ("assistant", answer))])
    [text], [last] = learned(encoder, example)
    assert text.endswith(answer + END) and last == PLAIN_END
    assert len(text) - len(answer + END) <= 2  # what a token holds of the template before the answer
    assert encoder.decode(example.ids).endswith(text)


@pytest.fixture(scope="module")
def encoders(tokenizer_folder):
    files = TokenizerFiles(tokenizer_folder)
    return {name: Encoder(files, template=name) for name in ("auto", "qa", "plain", "alpaca")}


def test_characters_that_the_vocabulary_lacks_are_found(encoders):
    said = row(("user", "Wie spät? 时间 🦘\n\u3000"), ("assistant", "\x16 \U00040000 \ufffd ok"))
    tokenizer = encoders["auto"].tokenizer
    assert unsayable(tokenizer, [said], None) == ["\x16", "\U00040000"]
    assert "o" in unsayable(tokenizer, [said], "o")
    assert named(["\x16", "é"]) == "U+0016, U+00E9"
