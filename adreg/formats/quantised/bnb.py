"""Weights quantised by bitsandbytes: 4-bit (nf4, fp4, with or without double quantisation) and 8-bit rows.

Source: bitsandbytes functional.py (QuantState, dequantize_4bit, int8_vectorwise_dequant) and QLoRA, arXiv 2305.14314.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adreg.errors import UnsupportedError
from adreg.formats.dtypes import Float32
from adreg.formats.quantised.packed import FP4, NEAREST, NF4, PLAIN, PackedTensor, Quantisation, part, refusal
from adreg.formats.safetensors import TensorView
from adreg.formats.strictjson import JsonObject, parse_object

STATE = ".quant_state.bitsandbytes__"
BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
# the sixteen levels by code, as shares of a block's largest magnitude
LEVELS: dict[str, tuple[float, ...]] = {
    NF4: (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
    FP4: tuple(sign * level / 192 for sign in (1, -1) for level in (0, 1, 128, 192, 64, 96, 32, 48)),
}  # fmt: skip


@dataclass(frozen=True)
class FourBit:
    """A 4-bit weight: two codes a byte, the first in the high half; one magnitude for each block of the flat tensor."""

    shape: tuple[int, ...]
    parts: tuple[str, ...]
    codes: TensorView
    block: int
    rounding: str
    magnitudes: tuple[TensorView, ...]
    nested: tuple[int, float] | None
    compute_dtype: str

    @property
    def quantisation(self) -> Quantisation:
        return Quantisation(f"bnb-{self.rounding}", 4, self.block, self.nested is not None, self.compute_dtype)

    def rows(self, start: int, stop: int) -> Float32:
        import numpy as np

        width = math.prod(self.shape[1:])
        first, last = start * width, stop * width
        packed = np.frombuffer(self.codes.data, np.uint8)[first // 2 : (last + 1) // 2]
        codes = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[first % 2 :][: last - first]
        levels = np.array(LEVELS[self.rounding], np.float32)[codes].reshape(-1, *self.shape[1:])
        return levels * self.scales(start, stop)

    def scales(self, start: int, stop: int) -> Float32:
        import numpy as np

        width = math.prod(self.shape[1:])
        first, last = start * width // self.block, -(-stop * width // self.block)
        places = np.arange(start * width, stop * width) // self.block - first
        return self._absmax(first, last)[places].reshape(-1, *self.shape[1:])

    def _absmax(self, first: int, last: int) -> Float32:
        """The magnitudes of blocks `first:last`; doubly quantised ones are expanded."""
        import numpy as np

        if self.nested is None:
            return self.magnitudes[0].rows(first, last)
        codes, scale, table = self.magnitudes
        block, offset = self.nested
        steps = table.float32()[np.frombuffer(codes.data, np.uint8)[first:last]]
        return steps * scale.float32()[np.arange(first, last) // block] + np.float32(offset)


@dataclass(frozen=True)
class EightBit:
    """An 8-bit weight: each row of whole numbers times its largest magnitude / 127."""

    weight: TensorView
    magnitudes: TensorView
    parts: tuple[str, ...]
    rounding: str = NEAREST

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def quantisation(self) -> Quantisation:
        return Quantisation("bnb-int8", 8, 0)

    def rows(self, start: int, stop: int) -> Float32:
        import numpy as np

        width = self.shape[1]
        codes = np.frombuffer(self.weight.data[start * width : stop * width], np.int8).astype(np.float32)
        # in the order of bitsandbytes, for the same last bit
        return codes.reshape(-1, width) * self.magnitudes.rows(start, stop).reshape(-1, 1) * np.float32(1 / 127)

    def scales(self, start: int, stop: int) -> Float32:
        import numpy as np

        steps = self.magnitudes.rows(start, stop) * np.float32(1 / 127)
        return np.repeat(steps.reshape(-1, 1), self.shape[1], axis=1)


def read(settings: JsonObject, tensors: Mapping[str, TensorView]) -> dict[str, PackedTensor]:
    """The weights by name. Raises `FormatError` or `UnsupportedError` naming the tensor."""
    found: dict[str, PackedTensor] = {}
    for name in tensors:
        weight, state, kind = name.partition(STATE)
        if state:
            found[weight] = _four_bit(weight, kind, tensors)
        elif name.endswith(".SCB"):
            weight = name.removesuffix("SCB") + "weight"
            found[weight] = _eight_bit(weight, tensors)
    return found


def _four_bit(weight: str, kind: str, tensors: Mapping[str, TensorView]) -> FourBit:
    if kind not in LEVELS:
        raise UnsupportedError(f"the bitsandbytes type {kind!r} of {weight!r}", PLAIN)
    state = f"{weight}{STATE}{kind}"
    said = parse_object(bytes(part(tensors, state, "U8", (None,)).data), Path(state), "B-QNT-0")
    shape, block = _shape(state, said), said.get("blocksize")
    if block not in BLOCKS or said.get("quant_type") != kind:
        raise refusal(state, f"says blocks of {block!r} and type {said.get('quant_type')!r}")
    count = math.prod(shape)
    codes = tensors.get(weight)
    if codes is None or codes.nbytes != (count + 1) // 2:
        raise refusal(weight, f"is no 4-bit weight of shape {list(shape)}")
    table = part(tensors, f"{weight}.quant_map", "F32", (16,))
    if any(abs(one - other) > 1e-6 for one, other in zip(table.float32().tolist(), LEVELS[kind], strict=True)):
        raise UnsupportedError(f"other levels than {kind}'s in {weight!r}", PLAIN)
    magnitudes, nested = _magnitudes(weight, tensors, math.ceil(count / block), said)
    parts = (weight, table.name, state, *(view.name for view in magnitudes))
    return FourBit(shape, parts, codes, block, kind, magnitudes, nested, str(said.get("dtype")))


def _shape(state: str, said: JsonObject) -> tuple[int, ...]:
    shape: Any = said.get("shape")
    whole = isinstance(shape, list) and all(type(size) is int and 0 < size < 2**32 for size in shape)
    if not whole or not 1 <= len(shape) <= 4:
        raise refusal(state, f"says the shape {shape!r}")
    return tuple(shape)


def _magnitudes(
    weight: str, tensors: Mapping[str, TensorView], blocks: int, said: JsonObject
) -> tuple[tuple[TensorView, ...], tuple[int, float] | None]:
    if f"{weight}.nested_absmax" not in tensors:
        return (part(tensors, f"{weight}.absmax", "F32", (blocks,)),), None
    block, offset = said.get("nested_blocksize"), said.get("nested_offset")
    if block not in BLOCKS or not isinstance(offset, float):
        raise refusal(f"{weight}{STATE}", f"says nested blocks of {block!r} with offset {offset!r}")
    codes = part(tensors, f"{weight}.absmax", "U8", (blocks,))
    scale = part(tensors, f"{weight}.nested_absmax", "F32", (math.ceil(blocks / block),))
    table = part(tensors, f"{weight}.nested_quant_map", "F32", (256,))
    return (codes, scale, table), (block, offset)


def _eight_bit(weight: str, tensors: Mapping[str, TensorView]) -> EightBit:
    codes = part(tensors, weight, "I8", (None, None))
    magnitudes = part(tensors, weight.removesuffix("weight") + "SCB", "F32", (codes.shape[0],))
    parts, layout = [weight, magnitudes.name], tensors.get(f"{weight}_format")
    if layout is not None:
        if any(bytes(layout.data)):
            raise UnsupportedError(f"the bitsandbytes weight format {list(layout.data)} of {weight!r}", PLAIN)
        parts.append(layout.name)
    return EightBit(codes, magnitudes, tuple(parts))
