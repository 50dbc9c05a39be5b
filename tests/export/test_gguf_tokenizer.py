from __future__ import annotations

import copy
import json
import shutil
from typing import Any

import numpy as np
import pytest

from adreg.errors import FormatError, UnsupportedError
from adreg.export.fold.folded import Folded
from adreg.export.gguf.llama import LLAMA
from adreg.export.gguf.tokenizer import CONTROL, NORMAL, UNUSED, USER_DEFINED, pre_tokenizer, token_table
from adreg.export.gguf.types import encode
from adreg.formats.bases.checkpoint import open_checkpoint
from tests.builders import build_checkpoint

# as Llama 3 and Qwen2 publish them
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(pattern):
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [step, BYTES]}


@pytest.mark.parametrize(
    ("name", "step", "normalizer", "ignore_merges"),
    [
        ("gpt-2", BYTES | {"use_regex": True}, None, False),
        ("llama-bpe", split(LLAMA3_SPLIT), None, True),
        ("qwen2", split(LLAMA3_SPLIT.replace("{1,3}", "")), {"type": "NFC"}, False),
        (None, split(LLAMA3_SPLIT.replace("{1,3}", "{1,2}")), None, True),
        (None, split(LLAMA3_SPLIT), None, False),
        (None, BYTES | {"use_regex": True}, {"type": "NFC"}, False),
        (None, {"type": "Whitespace"}, None, False),
    ],
    ids=["gpt-2", "llama-bpe", "qwen2", "two-digits", "llama-with-merges", "gpt-2-normalized", "words"],
)
def test_a_pre_tokenizer_is_recognised_by_its_structure_or_refused_with_it(name, step, normalizer, ignore_merges):
    definition = {"model": {"type": "BPE", "ignore_merges": ignore_merges}, "pre_tokenizer": step, "normalizer": normalizer}
    if name:
        assert pre_tokenizer(definition) == name
    else:
        with pytest.raises(UnsupportedError, match=step["type"]):
            pre_tokenizer(definition)


def test_other_kinds_of_tokenizers_are_refused():
    for kind, byte_fallback in (("Unigram", False), ("BPE", True)):
        with pytest.raises(UnsupportedError, match=kind):
            pre_tokenizer({"model": {"type": kind, "byte_fallback": byte_fallback}, "pre_tokenizer": BYTES})


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


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 3},
        {"tie_word_embeddings": False},
    ],
    ids=["activation", "rope", "fewer-layers", "more-layers", "no-head"],
)
def test_a_llama_that_the_format_cannot_express_is_refused(config, tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "base")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | config))
    base = open_checkpoint(folder)
    with pytest.raises((UnsupportedError, FormatError)):
        list(LLAMA.tensors(base, {name: Folded(name, view, view.dtype) for name, view in base.items()}))


def test_f16_refuses_what_it_would_turn_into_infinity(tmp_path):
    with pytest.raises(UnsupportedError, match="65504"):
        encode(np.array([[65520.0, 1.0]], dtype=np.float32), "F16", "token_embd.weight")
    assert encode(np.array([[65519.0]], dtype=np.float32), "F16", "token_embd.weight").max() == 65504


def test_a_checkpoint_without_tokenizer_json_is_refused(tmp_path):
    from adreg.export.gguf.tokenizer import write_tokenizer

    base = open_checkpoint(build_checkpoint(tmp_path / "base", "llama", None, vocab_size=64))
    with pytest.raises(UnsupportedError, match=r"tokenizer\.json"):
        write_tokenizer(None, base, 64, None)
