"""The same text as transformers' apply_chat_template, for templates that use all that templates use."""

from __future__ import annotations

import json
import shutil

import pytest

from adreg.errors import FormatError, UsageError
from adreg.formats.text.chat_template import render_chat
from adreg.formats.text.tokenizer import TokenizerFiles

TALK = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "Wie spät ist es? 时间"},
    {"role": "assistant", "content": " Late.\n"},
    {"role": "user", "content": "Thanks"},
]
STRICT = """
{%- if messages[0].role != 'system' %}
    {{- raise_exception('a system turn comes first') }}
{%- endif %}
{{- bos_token }}
{% for message in messages %}
    {% if message.role == 'assistant' %}
    {% generation %}{{ message.content | trim }}{{ eos_token }}{% endgeneration %}
    {% else %}
    [{{ message.role | upper }}] {{ message | tojson }} {{ message | tojson(indent=2) }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}[GO]{% endif %}
"""
LOOPING = """{% set seen = namespace(count=0) %}{% for message in messages %}
{%- if message.role == 'system' %}{% continue %}{% endif %}
{%- set seen.count = seen.count + 1 %}
<{{ seen.count }}|{{ dict(role=message.role).role }}>{{ message['content'].strip() }}
{% endfor %}{{ strftime_now('%Y') }}{{ thinking | default('off') }}{% if tools is not none %}tools{% endif %}"""


@pytest.fixture
def files(tmp_path, tokenizer_folder):
    return shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")


def with_template(files, text):
    (files / "chat_template.jinja").write_text(text)
    return TokenizerFiles(files)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("template", [None, STRICT, LOOPING])
def test_the_text_is_that_of_transformers(files, template, prompt):
    from transformers import AutoTokenizer

    tokenizer = with_template(files, template) if template else TokenizerFiles(files)
    reference = AutoTokenizer.from_pretrained(files)
    expected = reference.apply_chat_template(TALK, tokenize=False, add_generation_prompt=prompt, thinking="on")
    assert render_chat(tokenizer, TALK, prompt, thinking="on") == expected


def test_a_template_may_refuse_messages_and_be_no_jinja(files):
    with pytest.raises(UsageError, match="a system turn comes first"):
        render_chat(with_template(files, STRICT), TALK[1:])
    with pytest.raises(FormatError, match="no Jinja"):
        render_chat(with_template(files, "{% if %}"), TALK)


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% set trap = namespace() %}{% set trap.__class__ = 1 %}",
        "{{ dict.__globals__['json'] }}",
        "{% include '/etc/passwd' %}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_does_not_leave_the_sandbox(files, attack):
    with pytest.raises(UsageError):
        render_chat(with_template(files, attack), TALK)


def test_without_a_template_the_folder_is_named(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(UsageError, match="has no chat template"):
        render_chat(TokenizerFiles(tmp_path), TALK)
