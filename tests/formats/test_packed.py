"""Quantised checkpoints against bitsandbytes' own numbers and plain loops over the other layouts.

tests/formats/data was written by bitsandbytes 0.50.2 on a CPU from `quantisers.made`: `quantize_4bit(blocksize=64)` and
`QuantState.as_dict(packed=True)`, `int8_vectorwise_quant`; three rows of each, as it dequantises them to float32.
"""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adreg.errors import FormatError, UnsupportedError
from adreg.formats.quantised.packed import Quantisation, main_quantisation, read_packed
from adreg.formats.safetensors import open_safetensors
from tests.formats.quantisers import awq, four_bit, gptq, made

DATA = Path(__file__).parent / "data"
BNB = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}


def packed_in(path, arrays, **settings):
    save_file(arrays, path / "x.safetensors")
    return read_packed({"quantization_config": settings}, open_safetensors(path / "x.safetensors"))


def named(parts, stem="layers.0.q_proj"):
    return {f"{stem}.{name}": value for name, value in parts.items()}


def test_bitsandbytes_weights_have_the_values_that_it_computes_itself_whichever_rows_are_read():
    values = open_safetensors(DATA / "bitsandbytes-values.safetensors")
    packed = read_packed(BNB, open_safetensors(DATA / "bitsandbytes.safetensors"))
    assert set(packed) == {"double.weight", "single.weight", "odd.weight", "eight.weight"}
    for name, weight in packed.items():
        rows = weight.shape[0]
        whole = weight.rows(0, rows)
        assert whole.shape == weight.shape
        assert np.array_equal(whole[[0, rows // 2, rows - 1]], values[name].float32()), name
        assert all(np.array_equal(weight.rows(i, i + 2), whole[i : i + 2]) for i in range(rows - 1)), name
    assert packed["double.weight"].quantisation == Quantisation("bnb-nf4", 4, 64, True, "bfloat16")
    assert main_quantisation(packed.values()) == packed["double.weight"].quantisation


@pytest.mark.parametrize(("name", "kind"), [("single.weight", "nf4"), ("odd.weight", "fp4"), ("double.weight", "nf4")])
def test_the_tests_own_four_bit_quantiser_makes_the_codes_that_bitsandbytes_makes(name, kind):
    stored = load_file(DATA / "bitsandbytes.safetensors")
    shape = read_packed(BNB, open_safetensors(DATA / "bitsandbytes.safetensors"))[name].shape
    codes, magnitudes = four_bit(made(*shape), kind)
    # the sign of an fp4 zero is noise
    assert (codes != stored[name]).mean() < (0.02 if kind == "fp4" else 0.0005)
    assert "double" in name or np.array_equal(magnitudes, stored[f"{name}.absmax"])


@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("order", ["plain", "desc_act", "no g_idx"])
def test_gptq_weights_are_scale_times_code_less_zero(tmp_path, version, bits, order):
    index = np.random.default_rng(1).permutation(np.arange(64) // 16) if order == "desc_act" else None
    parts, values = gptq(made(24, 64), bits, 16, index, offset=int(version == "gptq"))
    if order == "no g_idx":
        del parts["g_idx"]
    found = packed_in(tmp_path, named(parts), quant_method="gptq", bits=bits, checkpoint_format=version)
    (weight,) = found.values()
    assert list(found) == ["layers.0.q_proj.weight"] and weight.shape == (24, 64)
    assert np.array_equal(weight.rows(0, 24), values) and np.array_equal(weight.rows(5, 14), values[5:14])
    assert np.abs(values - made(24, 64)).max() <= weight.scales(0, 24).max() * 1.01


def test_awq_weights_come_out_of_their_own_column_order(tmp_path):
    parts, values = awq(made(24, 64), 32)
    (weight,) = packed_in(tmp_path, named(parts), quant_method="awq", bits=4, version="GEMM").values()
    assert weight.shape == (24, 64) and weight.quantisation == Quantisation("awq", 4, 32)
    assert np.array_equal(weight.rows(0, 24), values) and np.array_equal(weight.rows(9, 21), values[9:21])


@pytest.mark.parametrize("block", [(128, 128), None])
def test_eight_bit_floats_are_multiplied_by_the_scale_of_their_block(tmp_path, block):
    import torch
    from safetensors.torch import save_file as save_torch

    weight = torch.randn(200, 300).to(torch.float8_e4m3fn)
    scale = torch.rand(2, 3) if block else torch.rand(200, 1)
    wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:200, :300] if block else scale
    save_torch({"q.weight": weight, "q.weight_scale_inv" if block else "q.weight_scale": scale}, tmp_path / "x.safetensors")
    settings = {"quant_method": "fp8", **({"weight_block_size": list(block)} if block else {})}
    (found,) = read_packed({"quantization_config": settings}, open_safetensors(tmp_path / "x.safetensors")).values()
    assert np.array_equal(found.rows(0, 200), (weight.float() * wide).numpy())
    assert np.array_equal(found.rows(127, 130), found.rows(0, 200)[127:130])


def damaged(**changes):
    parts = {**named(gptq(made(16, 32), 4, 16)[0]), **changes}
    return {name: value for name, value in parts.items() if value is not None}


STEM = "layers.0.q_proj"


@pytest.mark.parametrize(
    ("arrays", "settings", "said"),
    [
        (damaged(**{f"{STEM}.qzeros": None}), {}, "qzeros.*missing"),
        (damaged(**{f"{STEM}.qweight": None}), {}, "belongs to no weight"),
        (damaged(**{f"{STEM}.scales": np.ones((2, 17), np.float16)}), {}, "scales"),
        (damaged(**{f"{STEM}.g_idx": np.full(32, 7, np.int32)}), {}, "names a group"),
        (damaged(**{f"{STEM}.g_idx": np.full(32, -1, np.int32)}), {}, "names a group"),
        (damaged(other=np.ones(3, np.float32)), {"quant_method": "bitsandbytes"}, "belongs to no weight"),
        ({"other": np.ones(3, np.float32)}, {}, "none is"),
        (damaged(), None, "no quantization_config"),
    ],
)
def test_what_is_half_a_quantised_weight_is_refused_by_name(tmp_path, arrays, settings, said):
    save_file(arrays, tmp_path / "x.safetensors")
    config = {} if settings is None else {"quantization_config": {"quant_method": "gptq", "bits": 4, **settings}}
    with pytest.raises(FormatError, match=said):
        read_packed(config, open_safetensors(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "gptq", "bits": 3}, "3 bits"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "gemv"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
    ],
)
def test_methods_and_layouts_that_adreg_does_not_read_are_named(tmp_path, settings, said):
    with pytest.raises(UnsupportedError, match=said):
        packed_in(tmp_path, damaged(), **settings)


def test_a_quant_state_that_lies_is_refused(tmp_path):
    stored = load_file(DATA / "bitsandbytes.safetensors")
    state = "single.weight.quant_state.bitsandbytes__nf4"
    text = bytes(stored[state]).decode()
    for lie in (text.replace("[20, 64]", "[20, 65]"), text.replace('"blocksize": 64', '"blocksize": 0'), text[:-3], "[1]"):
        save_file({**stored, state: np.frombuffer(lie.encode(), np.uint8)}, tmp_path / "x.safetensors")
        with pytest.raises(FormatError, match="single"):
            read_packed(BNB, open_safetensors(tmp_path / "x.safetensors"))
