"""Ids and texts as transformers gives them; chat templates, which are hostile, and those that adapters bring along."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adreg.errors import FormatError, UsageError
from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.serve.text.templating import TemplatePool
from adreg.serve.text.tokenizer import Tokenizer, Tokenizers
from tests.export import spm

TEXTS = [
    "Hello, world!", "  two  spaces ", "Grüße 你好 🙂👩‍👩‍👧 龘", "a\n\n\tb\r\n", "", " ", "<|im_start|>user\nhi<|im_end|>",
    "</s><s> x", "1234567 3.14 don't I'LL", "naïve Ω≈ç√ \u200b\u00a0x",
]  # fmt: skip
MESSAGES = [
    {"role": "user", "content": "What is  it? 🙂"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "B"},
]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
TAKES_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def templates() -> Iterator[TemplatePool]:
    pool = TemplatePool()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def smollm2(tokenizer_folder: Path, templates: TemplatePool) -> Tokenizer:
    return Tokenizer(TokenizerFiles(tokenizer_folder), templates)


def with_files(folder: Path, **files: str) -> TokenizerFiles:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return TokenizerFiles(folder)


def assert_same(folder: Path, templates: TemplatePool) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ours = Tokenizer(TokenizerFiles(folder), templates)
    assert ours.eos == theirs.eos_token_id
    for text in TEXTS:
        ids = tuple(theirs.encode(text))
        assert ours.encode(text) == ids
        assert ours.encode(text, special=False) == tuple(theirs.encode(text, add_special_tokens=False))
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_ids_of_a_byte_level_tokenizer_are_transformers(tokenizer_folder: Path, templates: TemplatePool) -> None:
    assert_same(tokenizer_folder, templates)


@spm.needs_vocabularies
@pytest.mark.parametrize("definition", [spm.llama2, spm.phi3, spm.gemma], ids=lambda definition: definition.__name__)
def test_ids_of_a_sentencepiece_tokenizer_are_transformers(definition: Any, tmp_path: Path, templates: TemplatePool) -> None:
    # transformers does not obey them where there is a tokenizer.json
    for ends in ({}, {"add_bos_token": False, "add_eos_token": True}):
        assert_same(spm.write_tokenizer_files(tmp_path, definition(), **ends), templates)


def test_tokens_that_only_the_config_adds_are_transformers_too(
    tokenizer_folder: Path, tmp_path: Path, templates: TemplatePool
) -> None:
    folder = tmp_path / "more"
    shutil.copytree(tokenizer_folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    config["added_tokens_decoder"] = {"49152": {"content": "Hello", "special": False, **flags}}
    config["pad_token"] = "world"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert_same(folder, templates)


def test_a_tokenizer_needs_neither_torch_nor_transformers(tokenizer_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from adreg.serve.text.tokenizer import Tokenizers\n"
        f"Tokenizers(Path({str(tokenizer_folder)!r})).base.encode('a')\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_conversation_has_transformers_ids(smollm2: Tokenizer, tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    expected = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert smollm2.chat(MESSAGES) == tuple(expected)


def test_the_bytes_of_tokens_join_to_the_text(smollm2: Tokenizer) -> None:
    text = "".join(TEXTS)
    tokens = smollm2.encode(text, special=False)
    assert b"".join(map(smollm2.token_bytes, tokens)).decode() == text
    assert any("\ufffd" in smollm2.token_text(token) for token in tokens)
    assert smollm2.token_bytes(60_000) == b""


@spm.needs_vocabularies
def test_the_bytes_of_sentencepiece_tokens_join_to_the_text(tmp_path: Path, templates: TemplatePool) -> None:
    tokenizer = Tokenizer(TokenizerFiles(spm.write_tokenizer_files(tmp_path, spm.gemma())), templates)
    text = "".join(TEXTS)
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text, special=False))).decode() == text


def test_an_adapters_own_files_count_and_the_base_has_the_rest(tokenizer_folder: Path, tmp_path: Path) -> None:
    definition = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    definition["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    own = {
        "template": with_files(tmp_path / "template", chat_template__jinja="{{ bos_token }}{{ messages[0].content }}"),
        "spaced": with_files(tmp_path / "spaced", tokenizer__json=json.dumps(definition)),
        "broken": with_files(tmp_path / "broken", tokenizer__json="{}"),
    }
    tokenizers = Tokenizers(tokenizer_folder, own.get)
    base = tokenizers.base
    assert tokenizers.of(None) is tokenizers.of("without") is base
    assert tokenizers.of("template").render(MESSAGES) == "<|im_start|>What is  it? 🙂"
    assert tokenizers.of("template").encode("ab c") == base.encode("ab c")
    assert tokenizers.of("spaced").encode("ab c") == base.encode(" ab c")
    assert tokenizers.of("spaced").template == base.template
    with pytest.raises(FormatError, match="is no tokenizer"):
        tokenizers.of("broken")
    tokenizers.close()


def test_tools_go_to_templates_that_take_them_and_are_refused_by_others(
    smollm2: Tokenizer, tmp_path: Path, templates: TemplatePool
) -> None:
    taking = Tokenizer(with_files(tmp_path, chat_template__jinja=TAKES_TOOLS), templates, smollm2)
    assert taking.render(MESSAGES, [TOOL]) == json.dumps([TOOL]) + MESSAGES[0]["content"]
    with pytest.raises(UsageError, match="tools"):
        smollm2.chat(MESSAGES, [TOOL])


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('only one system message') }}", "only one system message"),
        ("{{ messages[0].content.__class__.__mro__ }}", "unsafe"),
        ("{% if", "unexpected"),
        ("{{ messages | nothing }}", "nothing"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ '\\ud800' }}", "surrogates"),
        ("{% for a in range(99999) %}{{ 'a' * 99999 }}{% endfor %}", "longer than"),
        ("{{ ('a' * 99999999) * 99 }}", "."),
    ],
)
def test_hostile_templates_are_an_error_of_their_own_request(
    template: str, why: str, smollm2: Tokenizer, tmp_path: Path, templates: TemplatePool
) -> None:
    hostile = Tokenizer(with_files(tmp_path, chat_template__jinja=template), templates, smollm2)
    with pytest.raises(UsageError, match=why):
        hostile.chat(MESSAGES)
    assert smollm2.render(MESSAGES).endswith("assistant\n")


def test_an_endless_template_delays_nobody_else(smollm2: Tokenizer, templates: TemplatePool) -> None:
    with ThreadPoolExecutor(1) as threads:
        endless = threads.submit(templates.render, ENDLESS, [], {})
        for _ in range(20):
            smollm2.render(MESSAGES)
        assert not endless.done()
        with pytest.raises(UsageError, match="too much time"):
            endless.result()


def test_a_model_without_a_template_is_named(tokenizer_folder: Path, tmp_path: Path, templates: TemplatePool) -> None:
    shutil.copy(tokenizer_folder / "tokenizer.json", tmp_path)
    with pytest.raises(UsageError, match="no chat template"):
        Tokenizer(TokenizerFiles(tmp_path), templates).chat(MESSAGES)


def test_an_adapter_ends_where_its_own_template_ends_an_answer(
    tokenizer_folder: Path, templates: TemplatePool, tmp_path: Path, smollm2: Tokenizer
) -> None:
    def ends(name: str, template: str) -> frozenset[int]:
        return Tokenizer(with_files(tmp_path / name, chat_template__jinja=template), templates, smollm2).ends

    said = "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    assert ends("other", said + "<|endoftext|>{% endfor %}") == {smollm2.encode("<|endoftext|>")[0]}
    assert ends("spaced", said + " <|im_end|>\n{% endfor %}") == {smollm2.encode("<|im_end|>")[0]}
    assert ends("none", said + "\n{% endfor %}") == ends("broken", "{% if %}") == frozenset()
    assert ends("same", str(smollm2.template)) == smollm2.ends == frozenset()
