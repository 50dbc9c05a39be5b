"""Float32 rows as GGML blocks, by the fastest quantiser at hand: llama.cpp's own, libgguf's, or gguf's in numpy.

All three give the same bytes. llama.cpp's is in the library of xllamacpp, under the name that ggml's C interface gives it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adreg.errors import MissingExtra
from adreg.formats.dtypes import FLOATS, Float32, from_float32

Encoded = NDArray[np.uint8]
Quantise = Callable[[Float32, str], Encoded]
# what gguf's numpy code can encode
IN_NUMPY = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")


def quantise(values: Float32, dtype: str) -> Encoded:
    """The bytes of `values`, whose last axis is a multiple of the block of `dtype` (GGML's name), by rows. Thread safe."""
    return _quantiser()(np.ascontiguousarray(values), dtype)


def require(dtypes: set[str]) -> None:
    """Raise `MissingExtra` where one of `dtypes` needs a quantiser that is not installed."""
    if _quantiser() is _by_gguf and not dtypes <= {"F32", *IN_NUMPY}:
        raise MissingExtra("libgguf", "export")


@functools.cache
def _quantiser() -> Quantise:
    chunk = _ggml_chunk()
    if chunk is not None:
        return functools.partial(_by_ggml, chunk)
    return _by_libgguf if importlib.util.find_spec("libgguf") else _by_gguf


def _ggml_chunk() -> Callable[..., int] | None:
    """`ggml_quantize_chunk(type, src, dst, first, rows, columns, importances)` of xllamacpp, or None."""
    spec = importlib.util.find_spec("xllamacpp")
    folders = spec.submodule_search_locations if spec else None
    for library in (path for folder in folders or () for path in Path(folder).glob("xllamacpp*.so")):
        try:
            chunk = ctypes.CDLL(str(library)).ggml_quantize_chunk
        except (OSError, AttributeError):
            continue
        number, address = ctypes.c_int64, ctypes.c_void_p
        chunk.argtypes = [ctypes.c_int, address, address, number, number, number, address]
        chunk.restype = ctypes.c_size_t
        return chunk
    return None


def _by_ggml(chunk: Callable[..., int], values: Float32, dtype: str) -> Encoded:
    number, encoded, rows, columns = _prepared(values, dtype)
    chunk(number, values.ctypes.data, encoded.ctypes.data, 0, rows, columns, None)
    return encoded


def _by_libgguf(values: Float32, dtype: str) -> Encoded:
    from libgguf import quantize_rows_into_raw

    number, encoded, rows, columns = _prepared(values, dtype)
    quantize_rows_into_raw(number, values, encoded, rows, columns)
    return encoded


def _by_gguf(values: Float32, dtype: str) -> Encoded:
    from gguf import GGMLQuantizationType, quants

    if dtype in FLOATS:
        return np.frombuffer(from_float32(values, dtype), np.uint8).reshape(*values.shape[:-1], -1)
    encoded: Encoded = quants.quantize(values, GGMLQuantizationType[dtype]).view(np.uint8)
    return encoded


def _prepared(values: Float32, dtype: str) -> tuple[int, Encoded, int, int]:
    """GGML's number of `dtype`, room for the bytes, and the rows and columns of `values`."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind, columns = GGMLQuantizationType[dtype], values.shape[-1]
    block, size = GGML_QUANT_SIZES[kind]
    rows = values.size // columns
    return int(kind), np.empty((rows, columns // block * size), np.uint8), rows, columns
