"""The tensor types that adreg writes into GGUF files, and the bytes of float32 blocks in them. Knows no architectures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from adreg.errors import UnsupportedError
from adreg.export.tensors import OutputTensor, PlannedTensor
from adreg.formats.dtypes import Float32

FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
QUANTS = tuple(FILE_TYPES)
F16_LIMIT = 65520.0


def in_types(tensors: Iterable[OutputTensor], quant: str) -> tuple[PlannedTensor, ...]:
    """Every tensor in the type that it has in a file of type `quant`."""
    typed = ((tensor, tensor_type(tensor.name, tensor.shape, quant)) for tensor in tensors)
    return tuple(PlannedTensor(tensor, dtype, tensor_bytes(tensor.shape, dtype)) for tensor, dtype in typed)


def tensor_type(name: str, shape: tuple[int, ...], quant: str) -> str:
    """The type of one tensor in a file of type `quant`, as llama.cpp's converter chooses it.

    Vectors and norms stay F32; rows that do not divide into Q8_0's blocks of 32 become F16.
    """
    if len(shape) == 1 or name.endswith("_norm.weight"):
        return "F32"
    if quant == "q8_0" and shape[-1] % 32:
        return "F16"
    return quant.upper()


def tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a tensor of row-major `shape`."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]]
    return math.prod(shape) // int(elements) * int(size)


def encode(values: Float32, dtype: str, name: str) -> np.ndarray[Any, Any]:
    """`values` in `dtype`, rounded once. Raises `UnsupportedError` where F16 would turn a value of `name` into infinity."""
    from gguf import GGMLQuantizationType, quants

    if dtype == "F16" and values.size and float(np.abs(values).max()) >= F16_LIMIT:
        raise UnsupportedError(f"f16 for {name}, which holds values beyond 65504,", "use --quant bf16")
    encoded: np.ndarray[Any, Any] = quants.quantize(values, GGMLQuantizationType[dtype])
    return encoded
