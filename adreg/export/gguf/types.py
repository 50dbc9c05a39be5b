"""The type that each tensor has in a GGUF file of a type, its size there, and the bytes of float32 blocks in it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from adreg.errors import UnsupportedError
from adreg.export.gguf.mixture import DEFAULTS, Traits, mixture
from adreg.export.gguf.quantise import quantise
from adreg.export.tensors import OutputTensor, PlannedTensor
from adreg.formats.dtypes import Float32, from_float32

PLAIN = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
FILE_TYPES = PLAIN | {quant: f"MOSTLY_{quant.upper()}" for quant in DEFAULTS}
QUANTS = tuple(FILE_TYPES)
F16_LIMIT = 65520.0
WEIGHTS = (".weight", ".lora_a", ".lora_b")
ALWAYS_F32 = ("position_embd.weight", "token_types.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")


def in_types(tensors: Iterable[OutputTensor], quant: str, traits: Traits) -> tuple[PlannedTensor, ...]:
    """Every tensor in the type that it has in a file of type `quant`, for a model of `traits`."""
    outputs = tuple(tensors)
    if quant in PLAIN:
        types = {tensor.name: _plain(tensor, quant) for tensor in outputs}
    else:
        quantised = {tensor.name: tensor.shape for tensor in outputs if not _stays_f32(tensor)}
        types = {tensor.name: "F32" for tensor in outputs} | mixture(quantised, quant, traits)
    return tuple(
        PlannedTensor(tensor, types[tensor.name], tensor_bytes(tensor.shape, types[tensor.name])) for tensor in outputs
    )


def _plain(tensor: OutputTensor, quant: str) -> str:
    """As llama.cpp's converter chooses: rows that do not divide into Q8_0's blocks of 32 become F16."""
    if _stays_f32(tensor):
        return "F32"
    return "F16" if quant == "q8_0" and tensor.shape[-1] % 32 else quant.upper()


def _stays_f32(tensor: OutputTensor) -> bool:
    """Vectors, norms, positions and routers, which the converter never rounds and llama-quantize leaves alone."""
    name = tensor.name
    return len(tensor.shape) == 1 or name.endswith(("_norm.weight", *ALWAYS_F32)) or not name.endswith(WEIGHTS)


def tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a tensor of row-major `shape`."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]]
    return math.prod(shape) // int(elements) * int(size)


def encode(values: Float32, dtype: str, name: str) -> memoryview:
    """The bytes of `values` in `dtype`, rounded once. Raises `UnsupportedError` where F16 would turn a value of `name`
    into infinity."""
    if dtype == "F32":
        return from_float32(values, dtype)
    if dtype == "F16" and values.size and max(float(values.max()), -float(values.min())) >= F16_LIMIT:
        raise UnsupportedError(
            f"f16 for {name}, which holds values beyond 65504,", "use a type that reaches further, such as bf16"
        )
    return quantise(values, dtype).data.cast("B")
