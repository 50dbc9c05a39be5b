"""The ids of tokenizers and chat templates, whoever wrote them."""

import json
import time
from dataclasses import replace

import pytest

from adreg.errors import FormatError
from adreg.formats.text.golden import CONVERSATIONS
from adreg.formats.text.templates import COUNT, template_meaning
from adreg.formats.text.tokenizer import TokenizerFiles
from tests.formats.checkpoints import ADDED, TOKENIZER, Model

TOKENS = ["<unk>", "a", "b", "ab", "漢", "🙂"]


def files(folder, model, added=()):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps({**TOKENIZER, "model": model, "added_tokens": list(added)}))
    return TokenizerFiles(folder)


def numbered(tokens):
    return {token: id_ for id_, token in enumerate(tokens)}


def test_one_vocabulary_has_one_id_in_every_kind_of_tokenizer(tmp_path):
    kinds = {
        "bpe": {"type": "BPE", "vocab": numbered(TOKENS), "merges": [["a", "b"]]},
        "wordpiece": {"type": "WordPiece", "vocab": numbered(TOKENS), "unk_token": "<unk>"},
        "wordlevel": {"type": "WordLevel", "vocab": dict(reversed(numbered(TOKENS).items()))},
        "unigram": {"type": "Unigram", "unk_id": 0, "vocab": [[token, -float(id_)] for id_, token in enumerate(TOKENS)]},
    }
    found = {kind: files(tmp_path / kind, model) for kind, model in kinds.items()}
    assert len({tokenizer.vocab_id for tokenizer in found.values()}) == 1
    assert len({tokenizer.tok_id for tokenizer in found.values()}) == len(kinds)


def test_an_added_token_counts_once_whether_or_not_the_vocabulary_has_it(tmp_path):
    added = {**ADDED, "id": 5, "content": "🙂"}
    whole = {"type": "BPE", "vocab": numbered(TOKENS), "merges": []}
    short = {"type": "BPE", "vocab": numbered(TOKENS[:-1]), "merges": []}
    ids = [files(tmp_path / "one", whole).vocab_id, files(tmp_path / "two", whole, [added]).vocab_id]
    assert {*ids, files(tmp_path / "three", short, [added]).vocab_id} == {ids[0]}
    assert files(tmp_path / "four", short).vocab_id != ids[0]


@pytest.mark.parametrize("text", [
    '{"model": {"type": "BPE", "vocab": {"a": "0"}}}', '{"model": {"type": "BPE", "vocab": {"a": true}}}',
    '{"model": {"type": "Unigram", "vocab": [["a"]]}}', '{"model": {"type": "Unigram", "vocab": [[1, 2]]}}',
    '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "x"}]}', '{"model": [1]}',
    '{"model": {"vocab": {}, "merges": [[1, 2]]}}',
    '{"model": {"vocab": {"\\ud800": 0}}}', '{"model": {"type": "Unigram", "vocab": [["a", 1e999]]}}', '{"added_tokens": 7}',
    '{"model": {"vocab": {"a": 0, "a": 1}}}', '{"model": ' + '{"a": ' * 600 + "1" + "}" * 601,
])  # fmt: skip
def test_what_is_no_tokenizer_is_refused_by_name(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(FormatError, match=r"tokenizer\.json") as caught:
        _ = TokenizerFiles(tmp_path).tok_id, TokenizerFiles(tmp_path).vocab_id
    assert caught.value.rule == "T-TOK-0"


def test_indentation_of_a_large_file_says_nothing(tmp_path):
    tokens = [f"token{number}" for number in range(60_000)]
    definition = {"model": {"type": "BPE", "vocab": numbered(tokens), "merges": [["a", "b c"]]}}
    ids = set()
    for indent in (None, 2, "\t"):
        (tmp_path / "tokenizer.json").write_text(json.dumps(definition, indent=indent))
        ids.add((TokenizerFiles(tmp_path).tok_id, TokenizerFiles(tmp_path).vocab_id))
    assert len(ids) == 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition, indent=2).replace("b c", "b\n  c"))
    with pytest.raises(FormatError, match="control character"):
        _ = TokenizerFiles(tmp_path).tok_id


@pytest.mark.parametrize(("content", "why"), [(b"\xff\xfe", "UTF-8"), (b"x" * 1_000_001, "longer")])
def test_a_template_that_is_no_text_or_too_long_is_refused(tmp_path, content, why):
    (tmp_path / "chat_template.jinja").write_bytes(content)
    with pytest.raises(FormatError, match=why) as caught:
        _ = TokenizerFiles(tmp_path).tpl_id
    assert caught.value.rule == "T-TPL-1"


def test_an_answer_is_expected_for_every_conversation():
    assert len(CONVERSATIONS) == COUNT


RAISES = template_meaning("{{ raise_exception('no') }}", {})


def test_that_a_template_raised_counts_and_not_why():
    assert template_meaning("{{ raise_exception('other') }}", {}) == template_meaning("{% if %}", {}) == RAISES
    some = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}ok"
    assert template_meaning(some, {}) not in {RAISES, template_meaning("ok", {})}


HOSTILE = {
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "giant output": "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "giant string": "{{ ('x' * 10 ** 12)|length }}",
    "giant number": "{{ 7 ** (10 ** 9) }}",
    "doubling": "{% set n = namespace(s='x') %}{% for a in range(64) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "nesting": "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
    "underscores": "{{ ''.__class__.__mro__ }}{{ raise_exception.__globals__ }}",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_template_ends_soon_and_counts_as_raising(kind):
    began = time.monotonic()
    assert template_meaning(HOSTILE[kind], {}) == RAISES and time.monotonic() - began < 60


def test_the_same_template_means_the_same_tomorrow():
    assert template_meaning("{{ strftime_now('%d %b %Y') }}", {}) == template_meaning("26 Jul 2024", {})
    odd = "{{ messages.append }}{{ messages|unique }}{{ range(9)|list|random }}{{ lipsum() }}{{ cycler }}"
    assert template_meaning(odd, {}) == template_meaning(odd, {}) != RAISES


def test_every_message_field_and_flag_is_looked_at():
    parts = ("m.content", "m.role", "m.tool_calls", "add_generation_prompt", "tools", "m.tool_call_id", "bos_token")
    found = {
        part: template_meaning("{% for m in messages %}{{ " + part + " }}{% endfor %}", {"bos_token": "<s>"}) for part in parts
    }
    assert len({*found.values(), RAISES}) == len(parts) + 1


def test_a_folder_without_files_has_no_ids(tmp_path):
    found = TokenizerFiles(replace(Model(), tokenizer=None, template=None).write(tmp_path))
    assert (found.tok_id, found.vocab_id, found.tpl_id, found.tpl_sem) == (None,) * 4
