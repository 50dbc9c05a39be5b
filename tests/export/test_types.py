from __future__ import annotations

import json

import numpy as np
import pytest

from adreg.errors import MissingExtra
from adreg.export.gguf import quantise
from adreg.export.gguf.types import FILE_TYPES
from adreg.export.plan import plan_merge
from adreg.formats.gguf.header import read_gguf
from tests.builders import build_checkpoint
from tests.export.merging import merge, request
from tests.export.mixtures import MODELS, RECORD, by_part
from tests.export.quantiser import needs_quantiser, quantise_file

TYPES = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
QUANTISED = [quant for quant in FILE_TYPES if quant not in ("f32", "f16", "bf16")]
SHARE = ["q3_k_m", "q4_k_m", "q5_0"]
RECORDED = json.loads(RECORD.read_text())


def rows(seed):
    values = np.random.default_rng(seed).normal(0, 0.05, (32, 512)).astype(np.float32)
    values[0] = 0
    values[1, ::64] = 3
    values[2] = np.linspace(-1, 1, 512)
    values[3, :4] = (1e-40, -1e-40, 1e-8, -1e-8)
    return values


@pytest.mark.parametrize("dtype", TYPES)
def test_llama_cpp_libgguf_and_gguf_quantise_alike(dtype):
    chunk = quantise._ggml_chunk()
    assert chunk is not None
    for seed in range(4):
        values = rows(seed)
        expected = quantise._by_ggml(chunk, values, dtype)
        assert np.array_equal(quantise._by_libgguf(values, dtype), expected)
        if dtype in quantise.IN_NUMPY:
            assert np.array_equal(quantise._by_gguf(values, dtype), expected)


def test_without_a_quantiser_the_plain_types_are_written_and_the_others_refused(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setattr(quantise, "_quantiser", lambda: quantise._by_gguf)
    merge(tiny_llama, output=tmp_path / "q8_0.gguf", quant="q8_0")
    with pytest.raises(MissingExtra, match="libgguf") as refused:
        quantise.require({"F32", "Q4_K"})
    assert refused.value.extra == "export"


@pytest.mark.parametrize("model", MODELS)
def test_every_tensor_has_the_type_that_llama_quantize_chose(model, tokenizer_folder, tmp_path):
    kind, config = MODELS[model]
    base = build_checkpoint(tmp_path / "base", kind, tokenizer_folder, **config)
    for quant, expected in RECORDED[model].items():
        plan = plan_merge(request(base, output=tmp_path / "out", quant=quant))
        assert by_part({tensor.name: tensor.dtype for tensor in plan.tensors}) == expected, quant


@needs_quantiser
@pytest.mark.parametrize(
    ("kind", "quants"),
    [("llama", SHARE), pytest.param("llama", QUANTISED, marks=pytest.mark.slow), ("gpt2", ["q4_k_m"]), ("phi3", ["q2_k"])],
    ids=["llama-share", "llama-all", "gpt2", "phi3"],
)
def test_a_file_is_what_llama_quantize_makes_byte_for_byte(kind, quants, tokenizer_folder, tmp_path):
    from gguf import LlamaFileType

    config = {"n_embd": 256} if kind == "gpt2" else {"hidden_size": 256, "intermediate_size": 512}
    base = build_checkpoint(tmp_path / "base", kind, tokenizer_folder, **config)
    given = merge(base, output=tmp_path / "given.gguf", quant="f32").path
    for quant in quants:
        ours = read_gguf(merge(base, output=tmp_path / f"{quant}.gguf", quant=quant).path)
        theirs = read_gguf(quantise_file(given, tmp_path / "theirs.gguf", int(LlamaFileType[FILE_TYPES[quant]])))
        assert ours.fields == theirs.fields
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name, tensor in theirs.tensors.items():
            assert (ours.tensors[name].dtype, ours.tensors[name].data) == (tensor.dtype, tensor.data), (quant, name)
