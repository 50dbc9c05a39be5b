"""Element types of safetensors files and their way to float32 and bfloat16, in numpy. Knows numbers, not files.

numpy is imported when the first number is read: listing a registry must not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Float32: TypeAlias = "NDArray[np.float32]"

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
FLOATS = ("F32", "F16", "BF16")
BLOCK = 1 << 16


def to_float32(raw: memoryview, dtype: str) -> Float32:
    """The little-endian elements in `raw` as a flat float32 array; F32 is a view, F16 and BF16 are exact copies."""
    import numpy as np

    if dtype == "F32":
        return np.frombuffer(raw, dtype="<f4")
    if dtype == "F16":
        return np.frombuffer(raw, dtype="<f2").astype(np.float32)
    if dtype == "BF16":
        bits = np.frombuffer(raw, dtype="<u2").astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    raise ValueError(f"{dtype} is no float type that adreg reads")


def all_finite(raw: memoryview, dtype: str) -> bool:
    """Whether no element is NaN or infinite; looks at exponent bits, without widening 16-bit types."""
    import numpy as np

    if dtype == "F32":
        return bool(np.isfinite(np.frombuffer(raw, dtype="<f4")).all())
    exponent = {"F16": 0x7C00, "BF16": 0x7F80}[dtype]
    return bool(((np.frombuffer(raw, dtype="<u2") & exponent) != exponent).all())


def any_nonzero(raw: memoryview, dtype: str) -> bool:
    """Whether some element is neither 0 nor -0; stops at the first block that holds one."""
    import numpy as np

    bits, sign = ("<u4", 0x7FFFFFFF) if dtype == "F32" else ("<u2", 0x7FFF)
    blocks = (raw[start : start + BLOCK] for start in range(0, len(raw), BLOCK))
    return any(bool((np.frombuffer(block, dtype=bits) & np.dtype(bits).type(sign)).any()) for block in blocks)


def largest_magnitude(raw: memoryview, dtype: str) -> float:
    """The largest absolute value of one element or more; NaN where one is NaN."""
    import numpy as np

    if dtype == "F32":
        values = np.frombuffer(raw, dtype="<f4")
        return max(float(values.max()), -float(values.min()))
    largest = (np.frombuffer(raw, dtype="<u2") & np.uint16(0x7FFF)).max()
    return float(to_float32(memoryview(largest.astype("<u2").tobytes()), dtype)[0])


def to_bfloat16(values: Float32) -> NDArray[np.uint16]:
    """`values` rounded to bfloat16, ties to even, as their 16 bits; NaNs stay (quiet) NaNs."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    sums = bits >> 16
    sums &= 1  # ties go to the even neighbour
    sums += 0x7FFF
    sums += bits
    sums >>= 16
    rounded = sums.astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = (bits[nan] >> 16) | 0x40
    return rounded


def from_float32(values: Float32, dtype: str) -> memoryview:
    """`values` as little-endian bytes of `dtype` (F32, F16, BF16), one rounding to nearest even; F32 may be a view of them."""
    import numpy as np

    if dtype == "BF16":
        return np.ascontiguousarray(to_bfloat16(values), "<u2").data.cast("B")
    return np.ascontiguousarray(values, {"F32": "<f4", "F16": "<f2"}[dtype]).data.cast("B")
