"""tokenizer.json made from tokenizer.model, against SentencePiece itself on Llama 2's vocabulary."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest
from tokenizers import Tokenizer

from adreg.errors import UnsupportedError
from adreg.formats.text.spmtokenizer import definition_from_model
from adreg.formats.text.tokenizer import TokenizerFiles
from tests.export.oracle import FOLDER, needs_oracle
from tests.export.spm import model_file, needs_vocabularies, vocabulary

TEXTS = [
    "Hello world", " two  spaces ", "你喜欢茶吗？🍵", "tabs\tand\nlines\r\n", "", " ", "naïve café Straße", "a" * 70, "▁ raw",
    "def f(x):\n    return x ** 2", "١٢٣ 1234567", "e\u0301 \u200d\u2028 \x07",
]  # fmt: skip
LETTERS = "  aeinorstlth.,'\n茶月亮🌙é▁01"
PREFIXED = b"\x18\x01\x20\x00"
BARE = b"\x18\x00\x20\x00"
PROGRAM = """
import json, sys, sentencepiece
model = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
print(json.dumps([model.encode(text) for text in json.load(sys.stdin)]))
"""

pytestmark = needs_vocabularies


def files(folder, found, normalizer=PREFIXED, **config):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model_file(found, normalizer=normalizer))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return TokenizerFiles(folder)


def made(given):
    return Tokenizer.from_str(json.dumps(definition_from_model(given)))


def by_sentencepiece(folder, texts):
    environment = {**os.environ, "PYTHONPATH": str(FOLDER)}
    command = [sys.executable, "-c", PROGRAM, str(folder / "tokenizer.model")]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout)


@needs_oracle
@pytest.mark.parametrize("normalizer", [PREFIXED, BARE])
def test_texts_get_the_ids_that_sentencepiece_gives_them(tmp_path, normalizer):
    given = files(tmp_path, vocabulary("llama-spm"), normalizer)
    tokenizer = made(given)
    random = Random(7)
    texts = [*TEXTS, *("".join(random.choices(LETTERS, k=random.randrange(30))) for _ in range(200))]
    found = [tokenizer.encode(text).ids for text in texts]
    assert found == by_sentencepiece(tmp_path, texts)
    assert [tokenizer.decode(ids) for ids in found[:4]] == texts[:4]


def test_control_and_user_defined_pieces_are_whole_tokens_between_which_each_part_is_cut_for_itself(tmp_path):
    llama = vocabulary("llama-spm")
    tokens, types = list(llama.tokens), list(llama.types)
    tokens[-2:], types[-2:] = ["reserved_0", "reserved_1"], [4, 3]
    tokenizer = made(files(tmp_path, replace(llama, tokens=tuple(tokens), types=tuple(types))))
    ids = tokenizer.encode("<unk>Be kind.reserved_0Hello worldreserved_1Yes.</s>").ids
    parts = [tokenizer.encode(text).ids for text in ("Be kind.", "Hello world", "Yes.")]
    assert ids == [0, *parts[0], len(tokens) - 2, *parts[1], len(tokens) - 1, *parts[2], 2]


def test_what_is_put_around_a_text_is_what_the_configuration_says(tmp_path):
    found = vocabulary("llama-spm")
    llama = made(files(tmp_path / "llama", found, tokenizer_class="LlamaTokenizer"))
    hello = llama.encode("Hello", add_special_tokens=False).ids
    assert hello[0] != 1 and llama.encode("Hello").ids == [1, *hello]
    both = files(tmp_path / "both", found, add_bos_token=True, add_eos_token=True)
    assert made(both).encode("Hello").ids == [1, *hello, 2]


@pytest.mark.parametrize("changes", [{"kind": 1}, {"byte_fallback": False}, {"normalizer": b"\x20\x01"}])
def test_other_kinds_are_refused(tmp_path, changes):
    given = files(tmp_path, vocabulary("llama-spm"))
    given.place("tokenizer.model").write_bytes(model_file(vocabulary("llama-spm"), **changes))
    with pytest.raises(UnsupportedError, match="SentencePiece tokenizer of type"):
        definition_from_model(given)
