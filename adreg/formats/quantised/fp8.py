"""Weights stored as 8-bit floats (E4M3) with scales by block or by row, as DeepSeek and `quant_method: fp8` write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adreg.formats.dtypes import FLOATS, Float32
from adreg.formats.quantised.packed import MOVED, PackedTensor, Quantisation, part, refusal
from adreg.formats.safetensors import TensorView
from adreg.formats.strictjson import JsonObject

SCALES = (".weight_scale_inv", ".weight_scale")


@dataclass(frozen=True)
class Float8Tensor:
    """One weight and the scales that its blocks are multiplied with."""

    weight: TensorView
    scale: TensorView
    block: tuple[int, int]
    rounding: str = MOVED

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.weight.name, self.scale.name)

    @property
    def quantisation(self) -> Quantisation:
        return Quantisation("fp8", 8, self.block[1] if self.block[1] < self.shape[1] else 0)

    def rows(self, start: int, stop: int) -> Float32:
        import numpy as np

        width = self.shape[1]
        codes = np.frombuffer(self.weight.data[start * width : stop * width], np.uint8).reshape(-1, width)
        return _e4m3()[codes] * self.scales(start, stop)

    def scales(self, start: int, stop: int) -> Float32:
        import numpy as np

        table = self.scale.float32().reshape(-(-self.shape[0] // self.block[0]), -1)
        return table[np.arange(start, stop) // self.block[0]][:, np.arange(self.shape[1]) // self.block[1]]


def _e4m3() -> Float32:
    """The value of each of the 256 codes: sign, 4 bits of exponent (bias 7), 3 of fraction; 0x7F and 0xFF are NaN."""
    import numpy as np

    codes = np.arange(256)
    exponent, fraction = (codes >> 3) & 15, (codes & 7) / 8
    size = np.where(exponent == 0, np.ldexp(fraction, -6), np.ldexp(1 + fraction, exponent - 7))
    values = np.where(codes & 0x7F == 0x7F, np.nan, np.where(codes & 0x80, -size, size))
    return values.astype(np.float32)


def read(settings: JsonObject, tensors: Mapping[str, TensorView]) -> dict[str, PackedTensor]:
    """The weights by name. Raises `FormatError` naming the tensor."""
    found: dict[str, PackedTensor] = {}
    for name, view in tensors.items():
        if view.dtype == "F8_E4M3":
            scale = next(
                (name.removesuffix(".weight") + end for end in SCALES if name.removesuffix(".weight") + end in tensors), ""
            )
            found[name] = _tensor(name, scale, settings, tensors)
    return found


def _tensor(name: str, scale: str, settings: JsonObject, tensors: Mapping[str, TensorView]) -> Float8Tensor:
    weight = part(tensors, name, "F8_E4M3", (None, None))
    if not scale or tensors[scale].dtype not in FLOATS:
        raise refusal(name, "has no scale beside it (weight_scale_inv or weight_scale)")
    rows, columns = weight.shape
    size = settings.get("weight_block_size")
    blocks = size if isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size) else None
    block = (blocks[0], blocks[1]) if blocks else (1 if tensors[scale].count == rows else rows, columns)
    if not rows or not columns or tensors[scale].count != -(-rows // block[0]) * -(-columns // block[1]):
        raise refusal(scale, f"has the shape {list(tensors[scale].shape)} for a weight of {list(weight.shape)}")
    return Float8Tensor(weight, tensors[scale], block)
