import numpy as np
import pytest
import torch

from adreg.formats.dtypes import all_finite, any_nonzero, from_float32, largest_magnitude, to_bfloat16, to_float32


def test_every_bfloat16_and_float16_pattern_reads_as_torch_reads_it():
    patterns = np.arange(2**16, dtype=np.uint16)
    for dtype, kind in (("BF16", torch.bfloat16), ("F16", torch.float16)):
        reference = torch.from_numpy(patterns.view(np.int16)).view(kind).float().numpy()
        assert np.array_equal(to_float32(memoryview(patterns.tobytes()), dtype), reference, equal_nan=True)


def test_rounding_to_bfloat16_is_torchs_for_a_million_patterns_and_the_ties():
    random = np.random.default_rng(0).integers(0, 2**32, 1_000_000, dtype=np.uint32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16) + 0x8000
    values = np.concatenate([random, ties, ties - 1, ties + 1]).view(np.float32)
    ours = to_bfloat16(values)
    reference = torch.from_numpy(values.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
    finite = ~np.isnan(values)
    assert np.array_equal(ours[finite], reference[finite])
    assert np.isnan((ours[~finite].astype(np.uint32) << 16).view(np.float32)).all()


def test_float16_bytes_round_trip():
    values = np.array([1.5, -2.25, 0.0, 65504.0], dtype=np.float32)
    assert np.array_equal(to_float32(memoryview(from_float32(values, "F16")), "F16"), values)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_finite_nonzero_and_largest_agree_with_numpy_for_every_16_bit_pattern(dtype):
    for bits in range(1 << 16):
        raw = memoryview(bits.to_bytes(2, "little"))
        value = to_float32(raw, dtype)
        assert all_finite(raw, dtype) == np.isfinite(value).all()
        assert any_nonzero(raw, dtype) == (value != 0).any()
        assert np.array_equal(largest_magnitude(raw, dtype), np.abs(value[0]), equal_nan=True)


def test_finite_nonzero_and_largest_of_float32():
    for value in (0.0, -0.0, 1e-45, 3e38, np.inf, -np.inf, np.nan):
        raw = memoryview(np.array([0.0, value], dtype="<f4").tobytes())
        assert all_finite(raw, "F32") == np.isfinite(value)
        assert any_nonzero(raw, "F32") == (value != 0)
        assert np.array_equal(largest_magnitude(raw, "F32"), np.abs(np.float32(value)), equal_nan=True)
