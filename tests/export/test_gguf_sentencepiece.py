from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from adreg.errors import AdregError, FormatError, UnsupportedError
from adreg.export.gguf.exactness import is_sentencepiece
from adreg.export.gguf.sentencepiece import sentencepiece_vocabulary
from adreg.export.gguf.tokenizer import write_tokenizer
from adreg.export.proof.llamacpp import llamacpp
from adreg.export.proof.reference import open_reference
from adreg.export.proof.verify import different_lines, tokenizer_lines
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.gguf.header import read_gguf
from adreg.formats.text.sentencepiece import read_sentencepiece
from adreg.formats.text.tokenizer import TokenizerFiles
from tests.builders import build_checkpoint
from tests.export import spm
from tests.export.merging import merge
from tests.export.oracle import FOLDER, convert, needs_oracle
from tests.export.test_gguf_against_converter import OURS, assert_same_tensors

pytestmark = spm.needs_vocabularies
ROWS = 32016
TINY = {"vocab_size": ROWS, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "max_position_embeddings": 64}
GEMMA_CLASS = {"tokenizer_class": "GemmaTokenizer", "pad_token": "<unk>", "mask_token": "<unk>"}
LIST_PIECES = """
import json, sys
from sentencepiece import SentencePieceProcessor
p = SentencePieceProcessor()
p.LoadFromFile(sys.argv[1])
kinds = [(p.IsUnknown, 2), (p.IsControl, 3), (p.IsUnused, 5), (p.IsByte, 6)]
kind = lambda i: next((number for test, number in kinds if test(i)), 1)
print(json.dumps([[p.IdToPiece(i), p.GetScore(i), kind(i)] for i in range(p.GetPieceSize())]))
"""


def written(folder, found, name="a model", rows=ROWS, **settings):
    return sentencepiece_vocabulary(TokenizerFiles(spm.write_tokenizer_files(folder, found, **settings)), rows, name)


@needs_oracle
def test_tokenizer_model_is_read_as_sentencepiece_reads_it(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(spm.model_file(spm.vocabulary("llama-spm")))
    command = [sys.executable, "-c", LIST_PIECES, str(path)]
    theirs = json.loads(subprocess.check_output(command, env={"PYTHONPATH": str(FOLDER)}))
    assert [[piece.text, piece.score, piece.type] for piece in read_sentencepiece(path).pieces] == theirs


def test_a_damaged_tokenizer_model_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    whole = spm.model_file(spm.Vocabulary(("<unk>", "▁a"), (0.0, -1.0), (2, 1)))
    damaged = [whole[:-1], whole[:3], b"", b"\x0b" + whole, b"\xff" * 12, whole.replace(b"\x18\x01", b"\x18\x09"),
               whole.replace("▁".encode(), b"\xff\xff\xff"), b"\x08\x01" + whole]  # fmt: skip
    for raw in damaged:
        path.write_bytes(raw)
        with pytest.raises(FormatError):
            read_sentencepiece(path)


def test_merges_give_the_scores_that_tokenizer_model_has(tmp_path):
    ours, real = written(tmp_path, spm.llama2(), rows=32000), spm.vocabulary("llama-spm")
    assert ours.tokens == list(real.tokens)
    assert ours.types[3:] == list(real.types[3:]) and ours.types[:3] == [3, 3, 3]
    # the real model has no score for runs of spaces
    scored = [id_ for id_ in range(259, 32000) if real.scores[id_] > -1e9]
    assert len(scored) > 31000
    ranks = sorted(scored, key=lambda id_: -real.scores[id_])
    assert sorted(scored, key=lambda id_: -ours.scores[id_]) == ranks


@needs_oracle
@pytest.mark.parametrize(
    ("kind", "build", "name"),
    [("phi3", spm.phi3, "Phi3"), pytest.param("llama", spm.llama2, "Name", marks=pytest.mark.slow)],
    ids=["phi3", "llama"],
)
def test_with_tokenizer_model_the_converter_writes_the_same(kind, build, name, tmp_path):
    tokenizer = spm.write_tokenizer_files(tmp_path / "tokenizer", build(), model=True)
    # 32016 rows would be a CodeLlama to the converter
    base = build_checkpoint(tmp_path / name, kind, tokenizer, **TINY | {"vocab_size": 32020})
    ours = read_gguf(merge(base, output=tmp_path / "ours.gguf", precision="compat", name=name).path)
    theirs = read_gguf(convert(base, tmp_path / "theirs.gguf", "f16"))
    assert_same_tensors(ours, theirs)
    fields, expected = (
        {key: value for key, value in file.fields.items() if not key.startswith((*OURS, "general.basename"))}
        for file in (ours, theirs)
    )
    assert fields == expected | {"tokenizer.ggml.add_space_prefix": True}


@pytest.mark.parametrize(
    ("build", "settings", "name"),
    [
        (spm.llama2, {"model": False}, "llama"),
        (spm.llama2, {"model": True}, "llama"),
        (spm.llama2, {"tokenizer_class": "LlamaTokenizer"}, "mistral"),
        (spm.phi3, {"model": False, "eos_token": "<|endoftext|>"}, "Phi-3 tiny"),
        pytest.param(spm.gemma, {"model": False}, "gemma", marks=pytest.mark.slow),
        pytest.param(spm.gemma, GEMMA_CLASS, "gemma", marks=pytest.mark.slow),
        (spm.gemma, {"model": True}, "gemma"),
    ],
    ids=["llama2", "llama2-tokenizer.model", "metaspace", "phi3", "gemma", "gemma-class", "gemma-tokenizer.model"],
)
def test_real_llama_cpp_tokenises_every_line_as_transformers_does(build, settings, name, tmp_path):
    found = build()
    tokenizer = spm.write_tokenizer_files(tmp_path / "tokenizer", found, **settings)
    base = open_checkpoint(build_checkpoint(tmp_path / "base", "llama", tokenizer, **TINY))
    lines = tokenizer_lines(base)
    with llamacpp(merge(base.folder, output=tmp_path / "it.gguf", name=name).path, 512) as model:
        assert different_lines(model, open_reference(base, ()), lines) == []
    assert len(lines) > 200


def _with(change: Any) -> Any:
    def build():
        found = spm.llama2()
        change(found)
        return found

    return build


def _merge_first(found):
    """A merge of an early token at the end: after the others, and before them too."""
    found["model"]["merges"] = [*found["model"]["merges"], found["model"]["merges"][0]]


def _forget(found):
    """No merge makes this token any more."""
    made = "▁the"
    found["model"]["merges"] = [merge for merge in found["model"]["merges"] if "".join(merge) != made]


REFUSED = {
    "normaliser": (_with(lambda it: it.update(normalizer={"type": "NFKC"})), {}, "NFKC"),
    "pre-tokenizer": (_with(lambda it: it.update(pre_tokenizer={"type": "Whitespace"})), {}, "Whitespace"),
    "two-orders": (_with(_merge_first), {}, "before"),
    "unmade": (_with(_forget), {}, "▁the"),
    "late-spaces": (_with(lambda it: it["added_tokens"].append(spm.added(268, "▁▁▁▁", special=False))), {}, "after"),
    "byte": (_with(lambda it: it["model"]["vocab"].pop("<0x0A>")), {}, "byte 10"),
    "dropout": (_with(lambda it: it["model"].update(dropout=0.1)), {}, "dropout"),
    "lstrip": (_with(lambda it: it["added_tokens"].append(spm.added(32000, "<x>", lstrip=True))), {}, "lstrip"),
    "normalized": (_with(lambda it: it["added_tokens"].append(spm.added(32000, "<x>", normalized=True))), {}, "normalized"),
    "phi3-by-another-name": (spm.phi3, {}, "rstrip"),
    "phi3-by-name-alone": (spm.llama2, {"name": "my-phi3"}, "rstrip"),
    "more-ids-than-rows": (spm.llama2, {"rows": 31999}, "31999 rows"),
    "same-text-twice": (_with(lambda it: it["added_tokens"].append(spm.added(32000, "▁the"))), {}, "2 ids"),
    "another-model": (_with(lambda it: it["model"]["vocab"].update({"▁the": 300, "et": 278})), {"model": True}, "calls"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "settings", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_llama_cpp_would_tokenise_otherwise_is_refused(build, settings, told, tmp_path):
    with pytest.raises(AdregError, match=told):
        written(tmp_path, build(), **settings)


def test_a_damaged_tokenizer_json_is_refused(tmp_path):
    base = build_checkpoint(tmp_path / "base", "llama", None, **TINY)
    damages: list[Any] = [
        lambda it: it["model"].update(vocab=["▁the"]),
        lambda it: it["model"].update(merges=[["▁", "no such token"]]),
        lambda it: it["model"].update(merges=[["a"]]),
        lambda it: it["added_tokens"].append({"id": 32000}),
        lambda it: it["added_tokens"].append(spm.added(0, "<x>") | {"id": "x"}),
    ]
    for damage in damages:
        spm.write_tokenizer_files(base, _with(damage)())
        with pytest.raises(FormatError, match="no tokenizer"):
            write_tokenizer(None, open_checkpoint(base), ROWS, "name", None)


@pytest.mark.parametrize(
    "changes", [{"kind": 1}, {"byte_fallback": False}, {"normalizer": b"\x12\x01x\x20\x00"}, {"normalizer": b""}],
    ids=["unigram", "no-bytes", "charsmap", "extra-white-space"],
)  # fmt: skip
def test_a_tokenizer_model_of_another_kind_is_refused(changes, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(spm.model_file(spm.vocabulary("llama-spm"), **changes))
    files = TokenizerFiles(tmp_path)
    assert is_sentencepiece(files)
    with pytest.raises(UnsupportedError, match=r"of type (BPE|UNIGRAM)"):
        sentencepiece_vocabulary(files, ROWS, "name")


def test_tokenizer_model_alone_is_enough(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(spm.model_file(spm.vocabulary("llama-spm")))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<x>": 32001}))
    found, real = sentencepiece_vocabulary(TokenizerFiles(tmp_path), 32003, "name"), spm.vocabulary("llama-spm")
    assert found.tokens == [*real.tokens, "[PAD32000]", "<x>", "[PAD32002]"]
    assert found.types == [*real.types, 5, 4, 5] and (found.scores or [])[:32000] == list(real.scores) and found.space_prefix
