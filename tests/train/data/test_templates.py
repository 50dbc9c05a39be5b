import shutil
import time

import numpy as np
import pytest

from adreg.errors import DataError
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.text.chat_template import render_chat
from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.train.config import DataSettings, Source
from adreg.train.data.encode import IGNORED, Encoder
from adreg.train.data.prepare import prepare
from adreg.train.data.templates import names
from tests.train.conftest import chat, write_rows
from tests.train.data.test_encode import learned, row

END = "<|im_end|>"
TALK = (("system", "S"), ("user", "Q1"), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2"))
TEXTS = {
    "alpaca": f"S\n\n### Instruction:\nQ1\n\n### Response:\nA1{END}\n\n### Instruction:\nQ2\n\n### Response:\nA2{END}",
    "chatml": f"<|im_start|>system\nS{END}\n<|im_start|>user\nQ1{END}\n<|im_start|>assistant\nA1{END}\n"
    f"<|im_start|>user\nQ2{END}\n<|im_start|>assistant\nA2{END}",
    "index": f"<unk>Sreserved_0Q1reserved_1A1{END}reserved_0Q2reserved_1A2{END}",
    "plain": f"S\nQ1\nA1{END}Q2\nA2{END}",
    "qa": f"S\nQuestion: Q1\nAnswer: A1{END}\nQuestion: Q2\nAnswer: A2{END}",
    "qa-zh": f"S\n用户:Q1\n助手:A1{END}\n用户:Q2\n助手:A2{END}",
    "raw": f"SQ1A1{END}Q2A2{END}",
}  # fmt: skip
MODERN = """{%- macro shown(m) %}{{ m.content if m.content is string else '' }}{% endmacro %}
{%- for m in messages %}{% set content = shown(m) %}
{%- if m.role == 'assistant' and '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>' + '\n' }}{% endfor %}"""


@pytest.fixture
def base(tmp_path, tokenizer_folder):
    return shutil.copytree(tokenizer_folder, tmp_path / "base")


def with_template(base, text):
    (base / "chat_template.jinja").write_text(text)
    return Encoder(TokenizerFiles(base))


@pytest.mark.parametrize("name", names())
def test_each_named_template_writes_its_form_and_learns_answers_with_their_end(base, name):
    encoder = Encoder(TokenizerFiles(base), template=name)
    [example] = encoder.encode([row(*TALK)])
    assert encoder.decode(example.ids) == TEXTS[name]
    assert [text.strip() for text in learned(encoder, example)[0]] == [f"A1{END}", f"A2{END}"]


@pytest.mark.parametrize("name", names())
def test_a_question_is_asked_as_it_was_trained(base, name):
    encoder = Encoder(TokenizerFiles(base), template=name)
    [example] = encoder.encode([row(*TALK)])
    messages = [{"role": role, "content": content} for role, content in TALK[:-1]]
    asked = render_chat(encoder.files, messages, add_generation_prompt=True)
    ids = encoder.tokenizer.encode(asked, add_special_tokens=False).ids
    first = int(np.flatnonzero(np.diff((example.labels != IGNORED).astype(int)) == 1)[-1]) + 1
    assert example.ids[:first].tolist() == ids


def test_the_template_that_was_used_is_what_the_tokenizer_files_carry_on(base, tmp_path):
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}")
    encoder = Encoder(TokenizerFiles(base), template=str(tmp_path / "mine.jinja"))
    [example] = encoder.encode([row(("user", "Q"), ("assistant", "A"))])
    assert render_chat(encoder.files, [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]) == (
        encoder.decode(example.ids)
    )
    assert Encoder(TokenizerFiles(base)).files.chat_template == TokenizerFiles(base).chat_template


def test_a_tokenizer_that_opens_texts_itself_opens_a_named_template_too(base):
    import json

    definition = json.loads((base / "tokenizer.json").read_text())
    opening = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    tokens = {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}}
    processor = {"type": "TemplateProcessing", "single": [opening, text], "pair": [opening, text], "special_tokens": tokens}
    (base / "tokenizer.json").write_text(json.dumps({**definition, "post_processor": processor}))
    encoder = Encoder(TokenizerFiles(base), template="qa")
    [example] = encoder.encode([row(("user", "Q"), ("assistant", "A"))])
    assert encoder.decode(example.ids).startswith("<|im_start|>Question: Q")


def test_a_template_that_reads_answers_is_followed_while_it_leaves_them_as_they_are(base):
    encoder = with_template(base, MODERN)
    [example] = encoder.encode([row(("user", "Q</think>"), ("assistant", "A"))])
    assert encoder.decode(example.ids).startswith("<|im_start|>user\nQ</think><|im_end|>")
    assert learned(encoder, example)[0] == ["A" + END]
    with pytest.raises(DataError, match="changes the assistant's words"):
        encoder.encode([row(("user", "Q"), ("assistant", "<think>hm</think>A"))])


def test_generation_tags_must_agree(base):
    tagged = "{% for m in messages %}<|im_start|>{% if m.role == 'ROLE' %}{% generation %}{{ m.content }}<|im_end|>"
    tagged += "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    talk = row(("user", "Q"), ("assistant", "A"))
    encoder = with_template(base, tagged.replace("ROLE", "assistant"))
    assert learned(encoder, encoder.encode([talk])[0])[0] == ["A" + END]
    with pytest.raises(DataError, match=r"generation tags marks? turn 1, of the user"):
        with_template(base, tagged.replace("ROLE", "user")).encode([talk])


def test_a_hostile_template_is_ended_and_the_next_one_renders(base):
    loop = "{% for m in messages %}{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
    began = time.process_time()
    with pytest.raises(DataError, match=r"rows\.jsonl:7: the chat template refuses these messages: it takes too much"):
        with_template(base, loop).encode([row(("user", "Q"), ("assistant", "A"))])
    assert time.process_time() - began < 1
    assert with_template(base, MODERN).encode([row(("user", "Q"), ("assistant", "A"))])


def test_a_template_that_asks_otherwise_than_it_trains_is_told(tmp_path, light_base):
    path = write_rows(tmp_path / "r.jsonl", [chat("Q", "A")])
    settings = DataSettings(train=[Source(path=path)], eval=0)
    assert prepare(open_checkpoint(light_base), settings, 0).reports[0].asked_alike
    thinking = (light_base / "chat_template.jinja").read_text() + "{% if add_generation_prompt %}<think>{% endif %}"
    (light_base / "chat_template.jinja").write_text(thinking)
    assert not prepare(open_checkpoint(light_base), settings, 0).reports[0].asked_alike


CLEANINGS = {
    "content | trim": str.strip,
    "content.rstrip()": str.rstrip,
    "content.lstrip()": str.lstrip,
    "content.strip('\\n')": lambda words: words.strip("\n"),
    "content.lstrip('\\n')": lambda words: words.lstrip("\n"),
}


@pytest.mark.parametrize("cleaning", CLEANINGS)
def test_a_template_may_clean_answers_at_their_ends(base, cleaning):
    shown = "{{ (m." + cleaning + ") if m.role == 'assistant' else m.content }}"
    encoder = with_template(base, "{% for m in messages %}<|im_start|>" + shown + "<|im_end|>{% endfor %}")
    [example] = encoder.encode([row(("user", " Q "), ("assistant", "\n A \n"))])
    assert learned(encoder, example)[0] == [CLEANINGS[cleaning]("\n A \n") + END]
