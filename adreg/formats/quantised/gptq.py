"""Weights quantised in GPTQ's layout: 4- or 8-bit codes packed along the input, zeros along the output.

Layout: AutoGPTQ's and GPTQModel's `QuantLinear`. `qweight` (in / codes a word, out), `qzeros` (groups, out / codes a
word), `scales` (groups, out), `g_idx` (in). Version 1 stores each zero less one; `checkpoint_format: gptq_v2` as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adreg.errors import UnsupportedError
from adreg.formats.dtypes import FLOATS, Float32
from adreg.formats.quantised.packed import FIRST, MOVED, PLAIN, PackedTensor, Quantisation, part, refusal
from adreg.formats.safetensors import TensorView
from adreg.formats.strictjson import JsonObject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class GptqTensor:
    """One weight. GPTQ rounds a row's values one by one and lets the later ones make up for the errors before them, so
    only the first is the nearest level; with `desc_act` the order is another, and unknown."""

    qweight: TensorView
    qzeros: TensorView
    scale: TensorView
    groups: TensorView | None
    bits: int
    zero_offset: int
    desc_act: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.qweight.shape[1], self.qweight.shape[0] * 32 // self.bits)

    @property
    def parts(self) -> tuple[str, ...]:
        views = (self.qweight, self.qzeros, self.scale, *([self.groups] if self.groups else []))
        return tuple(view.name for view in views)

    @property
    def rounding(self) -> str:
        return MOVED if self.desc_act else FIRST

    @property
    def group(self) -> int:
        return -(-self.shape[1] // self.scale.shape[0])

    @property
    def quantisation(self) -> Quantisation:
        return Quantisation("gptq-desc-act" if self.desc_act else "gptq", self.bits, self.group)

    def rows(self, start: int, stop: int) -> Float32:
        import numpy as np

        inputs = self.shape[1]
        shifts = np.arange(0, 32, self.bits, dtype=np.uint32)
        words = words_of(self.qweight)[:, start:stop]
        codes = (words[:, None, :] >> shifts[None, :, None]).reshape(inputs, -1) & np.uint32(2**self.bits - 1)
        group = self._group_of_input()
        zeros, scales = self._zeros(start, stop)[group], self._scales(start, stop)[group]
        return np.ascontiguousarray(((codes.astype(np.float32) - zeros) * scales).T)

    def scales(self, start: int, stop: int) -> Float32:
        import numpy as np

        return np.ascontiguousarray(self._scales(start, stop)[self._group_of_input()].T)

    def _scales(self, start: int, stop: int) -> Float32:
        return self.scale.float32()[:, start:stop]

    def _zeros(self, start: int, stop: int) -> Float32:
        import numpy as np

        each = 32 // self.bits
        words = words_of(self.qzeros)[:, start // each : -(-stop // each)]
        shifts = np.arange(0, 32, self.bits, dtype=np.uint32)
        zeros = ((words[:, :, None] >> shifts) & np.uint32(2**self.bits - 1)).reshape(len(words), -1)
        return zeros[:, start % each :][:, : stop - start].astype(np.float32) + np.float32(self.zero_offset)

    def _group_of_input(self) -> NDArray[np.int64]:
        import numpy as np

        if self.groups is None:
            return np.arange(self.shape[1]) // self.group
        return np.frombuffer(self.groups.data, "<i4").astype(np.int64)


def words_of(view: TensorView) -> NDArray[np.uint32]:
    """An I32 matrix as unsigned words."""
    import numpy as np

    return np.frombuffer(view.data, "<u4").reshape(view.shape)


def read(settings: JsonObject, tensors: Mapping[str, TensorView]) -> dict[str, PackedTensor]:
    """The weights by name. Raises `FormatError` or `UnsupportedError` naming the tensor or setting."""
    bits, layout = settings.get("bits"), settings.get("checkpoint_format") or settings.get("format") or "gptq"
    if bits not in (4, 8):
        raise UnsupportedError(f"GPTQ with {bits!r} bits", PLAIN)
    if layout not in ("gptq", "gptq_v2"):
        raise UnsupportedError(f"the GPTQ checkpoint format {layout!r}", PLAIN)
    stems = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    offset, desc_act = int(layout == "gptq"), bool(settings.get("desc_act"))
    return {f"{stem}.weight": _tensor(stem, tensors, bits, offset, desc_act) for stem in stems}


def _tensor(stem: str, tensors: Mapping[str, TensorView], bits: int, offset: int, desc_act: bool) -> GptqTensor:
    each = 32 // bits
    qweight = part(tensors, f"{stem}.qweight", "I32", (None, None))
    inputs, outputs = qweight.shape[0] * each, qweight.shape[1]
    scale = float_part(tensors, f"{stem}.scales", outputs)
    qzeros = part(tensors, f"{stem}.qzeros", "I32", (scale.shape[0], -(-outputs // each)))
    named = f"{stem}.g_idx" in tensors
    groups = part(tensors, f"{stem}.g_idx", "I32", (inputs,)) if named else None
    found = GptqTensor(qweight, qzeros, scale, groups, bits, offset, desc_act)
    if inputs == 0 or outputs == 0 or not 0 < scale.shape[0] <= inputs:
        raise refusal(f"{stem}.qweight", f"has {scale.shape[0]} groups for {inputs} inputs")
    index = found._group_of_input()
    if index.min() < 0 or index.max() >= scale.shape[0]:
        raise refusal(f"{stem}.g_idx", "names a group that scales does not have")
    return found


def float_part(tensors: Mapping[str, TensorView], name: str, width: int) -> TensorView:
    """The matrix `name` of any float type with `width` columns."""
    dtype = tensors[name].dtype if name in tensors else "F16"
    return part(tensors, name, dtype if dtype in FLOATS else "F16", (None, width))
