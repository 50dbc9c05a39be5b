"""Weights quantised in AWQ's gemm layout: 4-bit codes and zeros, eight columns a word in AWQ's own order.

Layout: AutoAWQ's `WQLinear_GEMM`. `qweight` (in, out / 8), `qzeros` (groups, out / 8), `scales` (groups, out). AWQ also
scales input channels and the layer before them, so a weight is not near the original's, channel by channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adreg.errors import UnsupportedError
from adreg.formats.dtypes import Float32
from adreg.formats.quantised.gptq import float_part, words_of
from adreg.formats.quantised.packed import MOVED, PLAIN, PackedTensor, Quantisation, part, refusal
from adreg.formats.safetensors import TensorView
from adreg.formats.strictjson import JsonObject

# where in a word the code of each of eight columns stands
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True)
class AwqTensor:
    """One weight."""

    qweight: TensorView
    qzeros: TensorView
    scale: TensorView
    rounding: str = MOVED

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.scale.shape[1], self.qweight.shape[0])

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.qweight.name, self.qzeros.name, self.scale.name)

    @property
    def group(self) -> int:
        return self.shape[1] // self.scale.shape[0]

    @property
    def quantisation(self) -> Quantisation:
        return Quantisation("awq", 4, self.group)

    def rows(self, start: int, stop: int) -> Float32:
        import numpy as np

        codes = _codes(self.qweight, start, stop)
        zeros = np.repeat(_codes(self.qzeros, start, stop), self.group, axis=0)
        return np.ascontiguousarray(((codes - zeros) * self._scales(start, stop)).T)

    def scales(self, start: int, stop: int) -> Float32:
        import numpy as np

        return np.ascontiguousarray(self._scales(start, stop).T)

    def _scales(self, start: int, stop: int) -> Float32:
        import numpy as np

        return np.repeat(self.scale.float32()[:, start:stop], self.group, axis=0)


def _codes(view: TensorView, start: int, stop: int) -> Float32:
    """Columns `start:stop` of a packed matrix, as floats."""
    import numpy as np

    words = words_of(view)[:, start // 8 : -(-stop // 8)]
    shifts = np.array(PLACES, np.uint32) * np.uint32(4)
    codes = ((words[:, :, None] >> shifts) & np.uint32(15)).reshape(len(words), -1)
    return codes[:, start % 8 :][:, : stop - start].astype(np.float32)


def read(settings: JsonObject, tensors: Mapping[str, TensorView]) -> dict[str, PackedTensor]:
    """The weights by name. Raises `FormatError` or `UnsupportedError` naming the tensor or setting."""
    bits, layout = settings.get("bits", settings.get("w_bit")), settings.get("version") or settings.get("format") or "gemm"
    if bits != 4 or str(layout).lower() != "gemm":
        raise UnsupportedError(f"AWQ with {bits!r} bits in the layout {layout!r}", PLAIN)
    stems = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    return {f"{stem}.weight": _tensor(stem, tensors) for stem in stems}


def _tensor(stem: str, tensors: Mapping[str, TensorView]) -> AwqTensor:
    qweight = part(tensors, f"{stem}.qweight", "I32", (None, None))
    inputs, outputs = qweight.shape[0], qweight.shape[1] * 8
    scale = float_part(tensors, f"{stem}.scales", outputs)
    qzeros = part(tensors, f"{stem}.qzeros", "I32", (scale.shape[0], qweight.shape[1]))
    if not scale.shape[0] or not outputs or not inputs or inputs % scale.shape[0]:
        raise refusal(f"{stem}.scales", f"has {scale.shape[0]} groups for {inputs} inputs")
    return AwqTensor(qweight, qzeros, scale)
