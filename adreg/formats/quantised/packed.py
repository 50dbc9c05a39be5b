"""Quantised weights: several stored tensors that together mean one float tensor. Knows formats, not models.

What is only half recognised (side tensors without a method, a method without its side tensors) is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from adreg.errors import FormatError, UnsupportedError
from adreg.formats.dtypes import Float32
from adreg.formats.safetensors import TensorView
from adreg.formats.strictjson import JsonObject

NEAREST, MOSTLY, NF4, FP4, FIRST, MOVED = "nearest", "mostly nearest", "nf4", "fp4", "first", "moved"
SIDE_TENSORS = (".absmax", ".quant_map", ".SCB", ".qweight", ".qzeros", ".g_idx", ".weight_scale", ".weight_scale_inv")
BLOCK_ELEMENTS = 1 << 20
PLAIN = "use the 16-bit checkpoint that it was made from"


@dataclass(frozen=True)
class Quantisation:
    """How a base is quantised. `group` is the number of weights that share a scale; 0 for a whole row."""

    method: str
    bits: int
    group: int
    double_quant: bool = False
    compute_dtype: str | None = None


class PackedTensor(Protocol):
    """A weight that is stored quantised: its logical shape, and its values row by row."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def parts(self) -> tuple[str, ...]:
        """Raw names of the stored tensors that it is made of."""

    @property
    def quantisation(self) -> Quantisation | None: ...

    @property
    def rounding(self) -> str:
        """Which values went to their nearest level: all (`nearest`, `nf4`, `fp4`), all unless the quantiser had importance
        weights (`mostly nearest`), the `first` of each row, or maybe none (`moved`); or the float type it is stored as."""

    def rows(self, start: int, stop: int) -> Float32:
        """Rows `start:stop` of the first axis, dequantised to float32."""

    def scales(self, start: int, stop: int) -> Float32:
        """For each value of these rows the distance between its levels (nf4, fp4: its block's largest magnitude)."""


def read_packed(config: JsonObject, tensors: Mapping[str, TensorView]) -> dict[str, PackedTensor]:
    """The quantised weights of a checkpoint by logical name (`x.weight`); empty for an ordinary one.

    Raises `UnsupportedError` for a method that adreg does not read, `FormatError` for parts that do not belong together.
    """
    settings = config.get("quantization_config")
    if not isinstance(settings, dict) or not settings:
        odd = next((name for name in tensors if name.endswith(SIDE_TENSORS)), None)
        if odd is not None:
            raise refusal(odd, "belongs to a quantised weight, and config.json has no quantization_config")
        return {}
    found = _reader(settings)(settings, tensors)
    used = {part for packed in found.values() for part in packed.parts}
    for name in tensors:
        if name.endswith(SIDE_TENSORS) and name not in used:
            raise refusal(name, "belongs to no weight of the checkpoint's quantisation")
    if not found:
        raise refusal("quantization_config", "config.json says that the weights are quantised, and none is")
    return found


Reader = Callable[[JsonObject, Mapping[str, TensorView]], dict[str, PackedTensor]]


def _reader(settings: JsonObject) -> Reader:
    from adreg.formats.quantised import awq, bnb, fp8, gptq

    method = settings.get("quant_method", "bitsandbytes" if "load_in_4bit" in settings else None)
    readers: dict[str, Reader] = {"bitsandbytes": bnb.read, "gptq": gptq.read, "awq": awq.read, "fp8": fp8.read}
    if method not in readers:
        raise UnsupportedError(f"a base quantised with {method!r}", PLAIN)
    return readers[method]


def main_quantisation(packed: Iterable[PackedTensor]) -> Quantisation | None:
    """The quantisation of most values, or None when nothing is quantised."""
    sizes: dict[Quantisation, int] = {}
    for tensor in packed:
        if tensor.quantisation is not None:
            sizes[tensor.quantisation] = sizes.get(tensor.quantisation, 0) + math.prod(tensor.shape)
    return max(sizes, key=lambda one: sizes[one]) if sizes else None


def row_blocks(tensor: PackedTensor) -> Iterator[Float32]:
    """All rows of `tensor` in order, in blocks of at most 4 MB (or one row)."""
    count = max(1, BLOCK_ELEMENTS // max(1, math.prod(tensor.shape[1:])))
    for start in range(0, tensor.shape[0], count):
        yield tensor.rows(start, min(start + count, tensor.shape[0]))


def part(tensors: Mapping[str, TensorView], name: str, dtype: str, shape: tuple[int | None, ...]) -> TensorView:
    """The side tensor `name`, of this type and shape (None: any size). Raises `FormatError`."""
    view = tensors.get(name)
    if view is None:
        raise refusal(name, "is missing: the quantised weight that it belongs to cannot be read")
    fits = len(view.shape) == len(shape) and all(want in (None, is_) for want, is_ in zip(shape, view.shape, strict=True))
    if view.dtype != dtype or not fits:
        raise refusal(name, f"is {view.dtype} {list(view.shape)}, where {dtype} {list(shape)} belongs")
    return view


def refusal(name: str, why: str) -> FormatError:
    """The error about a tensor of a quantised checkpoint."""
    return FormatError(name, why, "B-QNT-0")
