"""The file of a sketch: a sample of a base's values, at most 4 MB. Knows bytes, not where the values are taken.

Values have 16 bits: float16's where they are stored so, else bfloat16's. Where a format rounds to levels, each 16 values
have a scale: the distance between levels, or the largest magnitude of the block; and with levels at even distances an
anchor: the first of the values, exactly. In the segments `firsts` every value has its own.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adreg.errors import FormatError
from adreg.formats.dtypes import FLOATS, Float32, to_float32
from adreg.formats.quantised.packed import FP4, MOSTLY, MOVED, NEAREST, NF4

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bits = NDArray[np.uint16]

MAGIC, VERSION = b"ADRGSKT\0", 1
HEAD = struct.Struct("<8sHxxIIIIII64s")
BYTE_LIMIT = 4_000_000
GROUP = 16
UNKNOWN = "unknown"
KINDS = (*FLOATS, NEAREST, MOSTLY, NF4, FP4, MOVED, UNKNOWN)
EVEN = (NEAREST, MOSTLY)
SCALED = (*EVEN, NF4, FP4)


@dataclass(frozen=True)
class Segment:
    """The sampled values of one tensor.

    `kind` is the float type that they are stored as, or how they were rounded. `block` is the number of values that
    share a scale; of floats it tells whether the 16 bits are all of the stored value (1) or not (0).
    """

    kind: str
    block: int
    bits: Bits
    scales: Float32
    anchors: Float32

    @property
    def values(self) -> Float32:
        return to_float32(self.bits.data, "F16" if self.kind == "F16" else "BF16")

    @property
    def exact(self) -> bool:
        """Whether `values` are the stored values of a tensor that is not quantised."""
        return self.kind in FLOATS and self.block == 1


@dataclass(frozen=True)
class Sketch:
    """The id of an architecture, a segment for each tensor, and one for the first columns of each matrix."""

    arch_id: str
    segments: tuple[Segment, ...]
    firsts: tuple[Segment, ...]

    @property
    def count(self) -> int:
        return sum(len(segment.bits) for segment in self.segments + self.firsts)


def dump_sketch(sketch: Sketch) -> bytes:
    """The file of `sketch`. Raises `ValueError` when it would be larger than 4 MB."""
    import numpy as np

    every = sketch.segments + sketch.firsts
    bits = b"".join(one.bits.astype("<u2").tobytes() for one in every)
    scales = b"".join(one.scales.astype("<f4").tobytes() for one in every)
    anchors = b"".join(one.anchors.astype("<f4").tobytes() for one in every)
    sizes = (len(sketch.segments), len(sketch.firsts), len(bits) // 2, len(scales) // 4, len(anchors) // 4)
    head = HEAD.pack(MAGIC, VERSION, BYTE_LIMIT, *sizes, sketch.arch_id.removeprefix("b3:").encode())
    counts = np.array([len(one.bits) for one in every], "<u4").tobytes()
    blocks = np.array([one.block for one in every], "<u4").tobytes()
    data = head + counts + blocks + bytes(KINDS.index(one.kind) for one in every) + bits + scales + anchors
    if len(data) > BYTE_LIMIT:
        raise ValueError(f"a sketch of {len(data)} bytes")
    return data


def read_sketch(data: bytes, name: str = "sketch") -> Sketch:
    """The sketch in `data`. Raises `FormatError` about `name` when a byte of it does not fit."""
    import numpy as np

    if not HEAD.size <= len(data) <= BYTE_LIMIT:
        raise FormatError(name, f"has {len(data)} bytes: no sketch", "B-SKT-1")
    magic, version, limit, segments, firsts, *sizes, digest = HEAD.unpack_from(data)
    tensors, end = segments + firsts, len(data)
    if (magic, version, limit) != (MAGIC, VERSION, BYTE_LIMIT) or end != HEAD.size + 9 * tensors + 2 * sizes[0] + 4 * sum(
        sizes[1:]
    ):
        raise FormatError(name, "is no sketch that this adreg reads", "B-SKT-1")
    counts = np.frombuffer(data, "<u4", tensors, HEAD.size).tolist()
    blocks = np.frombuffer(data, "<u4", tensors, HEAD.size + 4 * tensors).tolist()
    kinds = data[HEAD.size + 8 * tensors :][:tensors]
    if any(kind >= len(KINDS) for kind in kinds) or set(digest) - set(b"0123456789abcdef"):
        raise FormatError(name, "names a kind or an id that there is none of", "B-SKT-1")
    names = [KINDS[kind] for kind in kinds]
    scaled = [_scale_count(kind, n, at >= segments) for at, (kind, n) in enumerate(zip(names, counts, strict=True))]
    anchored = [n if kind in EVEN else 0 for kind, n in zip(names, scaled, strict=True)]
    if [sum(counts), sum(scaled), sum(anchored)] != sizes:
        raise FormatError(name, "does not hold the values that it counts", "B-SKT-1")
    bits = np.frombuffer(data, "<u2", sizes[0], HEAD.size + 9 * tensors)
    floats = np.frombuffer(data[end - 4 * sum(sizes[1:]) :], "<f4")
    if not np.isfinite(floats).all():
        raise FormatError(name, "has a scale that is no number", "B-SKT-1")
    parts = zip(
        names, blocks, _cut(bits, counts), _cut(floats[: sizes[1]], scaled), _cut(floats[sizes[1] :], anchored), strict=True
    )
    every = tuple(Segment(*part) for part in parts)
    return Sketch(f"b3:{digest.decode()}", every[:segments], every[segments:])


def _cut(whole: NDArray[Any], counts: list[int]) -> list[NDArray[Any]]:
    """`whole` in pieces of these lengths."""
    import numpy as np

    return np.split(whole, np.cumsum(counts)[:-1]) if counts else []


def _scale_count(kind: str, count: int, first: bool) -> int:
    if kind not in SCALED:
        return 0
    return count if first else -(-count // GROUP)
