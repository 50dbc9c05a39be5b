"""One tensor of a GGUF file as the float tensor that it means, row by row, rotary order undone. Knows types, not models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adreg.errors import UnsupportedError
from adreg.formats.dtypes import FLOATS, Float32, to_float32
from adreg.formats.gguf.header import TYPES
from adreg.formats.quantised.packed import MOSTLY, MOVED, NEAREST, PLAIN, Quantisation
from adreg.formats.safetensors import TensorView

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

BLOCKS = {name: (block, size) for name, block, size in TYPES.values()}
# where the codes of a block lie, and how many steps lie between the lowest code and the highest
CODES = {
    "Q4_0": (2, 18, 15), "Q4_1": (4, 20, 15), "Q5_0": (2, 22, 31), "Q5_1": (4, 24, 31), "Q8_0": (2, 34, 1),
    "Q2_K": (16, 80, 3), "Q3_K": (0, 96, 7), "Q4_K": (16, 144, 15), "Q5_K": (16, 176, 31), "Q6_K": (0, 192, 63),
}  # fmt: skip
# with importance weights llama.cpp finds their codes on one grid and stores another
WEIGHTED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")


@dataclass(frozen=True)
class GgufTensor:
    """`heads` is the number of attention heads whose rows llama.cpp interleaved, 0 where it did not."""

    view: TensorView
    heads: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.view.name,)

    @property
    def quantisation(self) -> Quantisation | None:
        dtype = self.view.dtype
        if dtype in FLOATS:
            return None
        bits = next(int(character) for character in dtype if character.isdigit())
        return Quantisation(f"gguf-{dtype.lower()}", bits, BLOCKS[dtype][0])

    @property
    def rounding(self) -> str:
        if self.view.dtype in FLOATS:
            return self.view.dtype
        if self.view.dtype in WEIGHTED:
            return MOSTLY
        return NEAREST if self.view.dtype in CODES else MOVED

    def rows(self, start: int, stop: int) -> Float32:
        return self._decoded(self._raw(start, stop))

    def scales(self, start: int, stop: int) -> Float32:
        """The distance between levels, found by decoding the block with all bits of its codes cleared, and set."""
        import numpy as np

        raw = self._raw(start, stop)
        if self.view.dtype not in CODES:
            return self._decoded(raw) * 0
        first, last, steps = CODES[self.view.dtype]
        low = raw.reshape(-1, BLOCKS[self.view.dtype][1]).copy()
        high = low.copy()
        low[:, first:last], high[:, first:last] = 0, 255
        levels: Float32 = np.abs(self._decoded(high.reshape(raw.shape)) - self._decoded(low.reshape(raw.shape)))
        return levels / np.float32(steps)

    def _raw(self, start: int, stop: int) -> Bytes:
        """The stored bytes of rows `start:stop`, in the checkpoint's order."""
        import numpy as np

        rows = np.frombuffer(self.view.data, np.uint8).reshape(self.shape[0], -1)
        if not self.heads:
            return rows[start:stop]
        size = self.shape[0] // self.heads
        head, row = np.divmod(np.arange(start, stop), size)
        pairs: Bytes = rows[head * size + row % (size // 2) * 2 + row // (size // 2)]
        return pairs

    def _decoded(self, raw: Bytes) -> Float32:
        import numpy as np

        if self.view.dtype in FLOATS:
            return to_float32(np.ascontiguousarray(raw).reshape(-1).data, self.view.dtype).reshape(-1, *self.shape[1:])
        from gguf import GGMLQuantizationType, quants

        try:
            values = quants.dequantize(np.ascontiguousarray(raw), GGMLQuantizationType[self.view.dtype])
        except NotImplementedError as error:
            raise UnsupportedError(f"reading {self.view.name!r} of GGUF type {self.view.dtype}", PLAIN) from error
        return np.asarray(values, np.float32).reshape(-1, *self.shape[1:])
