from __future__ import annotations

import copy
import json
import shutil
from typing import Any

import numpy as np
import pytest

from adreg.errors import FormatError, UnsupportedError
from adreg.export.gguf.bytelevel import token_table
from adreg.export.gguf.pretokenizer import pre_tokenizer
from adreg.export.gguf.tokenizer import write_tokenizer
from adreg.export.gguf.types import encode
from adreg.export.gguf.vocabulary import CONTROL, NORMAL, UNUSED, USER_DEFINED
from adreg.formats.bases.checkpoint import open_checkpoint
from tests.builders import build_checkpoint

# as the models of that name publish them
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace("{1,3}", "")
TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS = {"type": "Digits", "individual_digits": True}
DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", DIGITS)
DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(*patterns, behavior="Isolated", invert=False):
    """A pre-tokenizer that splits by each of `patterns` in turn; a dict among them is a step of its own."""
    how = {"behavior": behavior, "invert": invert}
    steps = [one if isinstance(one, dict) else {"type": "Split", "pattern": {"Regex": one}, **how} for one in patterns]
    return {"type": "Sequence", "pretokenizers": [*steps, BYTES]}


@pytest.mark.parametrize(
    ("name", "step", "normalizer", "ignore_merges"),
    [
        ("gpt-2", BYTES | {"use_regex": True}, None, False),
        ("llama-bpe", split(LLAMA3_SPLIT), None, True),
        ("dbrx", split(LLAMA3_SPLIT), None, False),
        ("dbrx", split(LLAMA3_SPLIT, behavior="Removed", invert=True), None, False),
        ("qwen2", split(QWEN2_SPLIT), {"type": "NFC"}, False),
        ("qwen2", split(QWEN2_SPLIT), None, False),
        ("gpt-4o", split(O200K_SPLIT), None, False),
        ("tekken", split(TEKKEN_SPLIT), None, True),
        ("deepseek-coder", split(*DEEPSEEK_CODER), None, False),
        ("deepseek-v3", split(*DEEPSEEK_V3), None, False),
        (None, split(LLAMA3_SPLIT.replace("{1,3}", "{1,2}")), None, True),
        (None, split(LLAMA3_SPLIT, behavior="Removed"), None, True),
        (None, split(*DEEPSEEK_CODER[:-2], behavior="Removed", invert=True), None, False),
        (None, split(QWEN2_SPLIT), {"type": "NFKC"}, False),
        (None, BYTES | {"use_regex": True}, {"type": "NFC"}, False),
        (None, {"type": "Whitespace"}, None, False),
    ],
)
def test_a_pre_tokenizer_is_recognised_by_its_structure_or_refused_with_it(name, step, normalizer, ignore_merges):
    definition = {"model": {"type": "BPE", "ignore_merges": ignore_merges}, "pre_tokenizer": step, "normalizer": normalizer}
    if name:
        assert pre_tokenizer(definition) == name
    else:
        with pytest.raises(UnsupportedError, match=step["type"]):
            pre_tokenizer(definition)


@pytest.mark.parametrize("model", [{"type": "Unigram"}, {"type": "BPE", "end_of_word_suffix": "</w>"}])
def test_other_kinds_of_tokenizers_are_refused(model, tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "base")
    definition = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(definition | {"model": model}))
    with pytest.raises(UnsupportedError, match=model["type"]):
        write_tokenizer(None, open_checkpoint(folder), 49152, "name", None)


def test_ids_get_their_texts_and_types_up_to_the_rows_of_the_embedding_table(tiny_llama):
    base = open_checkpoint(tiny_llama)
    definition = copy.deepcopy(base.tokenizer.definition)
    assert definition is not None
    definition["added_tokens"] += [
        {"id": 49153, "content": "<mine>", "special": False},
        {"id": 49154, "content": "<|looks_special|>", "special": False},
    ]
    tokens, types = token_table(base, definition, 49156)
    assert len(tokens) == len(types) == 49156
    assert tokens[1] == "<|im_start|>" and types[1] == CONTROL and types[400] == NORMAL
    assert tokens[49152:] == ["[PAD49152]", "<mine>", "<|looks_special|>", "[PAD49155]"]
    assert types[49152:] == [UNUSED, USER_DEFINED, CONTROL, UNUSED]
    with pytest.raises(FormatError, match="49154 rows"):
        token_table(base, definition, 49154)


def test_f16_refuses_what_it_would_turn_into_infinity(tmp_path):
    with pytest.raises(UnsupportedError, match="65504"):
        encode(np.array([[65520.0, 1.0]], dtype=np.float32), "F16", "token_embd.weight")
    stored = encode(np.array([[65519.0]], dtype=np.float32), "F16", "token_embd.weight")
    assert np.frombuffer(stored, np.float16).max() == 65504


def test_a_checkpoint_without_tokenizer_json_is_refused(tmp_path):
    base = open_checkpoint(build_checkpoint(tmp_path / "base", "llama", None, vocab_size=64))
    with pytest.raises(UnsupportedError, match=r"tokenizer\.json"):
        write_tokenizer(None, base, 64, "name", None)
