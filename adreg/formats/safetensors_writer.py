"""Writes a safetensors file as a stream: the header first, then each tensor in turn, in any number of pieces."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from adreg.formats.dtypes import BITS


@dataclass(frozen=True)
class TensorSpec:
    """What the header says of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype] // 8


class Sink(Protocol):
    """What takes the bytes: a file, or something like one."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class SafetensorsWriter:
    """Takes exactly the bytes that `specs` promise, in their order; the same input gives the same file."""

    def __init__(self, file: Sink, specs: Sequence[TensorSpec], metadata: dict[str, str] | None = None) -> None:
        self._file, self._due = file, sum(spec.nbytes for spec in specs)
        header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
        offset = 0
        for spec in specs:
            header[spec.name] = {
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "data_offsets": [offset, offset + spec.nbytes],
            }
            offset += spec.nbytes
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)

    def write(self, data: bytes | memoryview) -> None:
        """Append the next bytes."""
        self._file.write(data)
        self._due -= len(data)

    def finish(self) -> None:
        """Raises `ValueError` when the bytes written are not those promised."""
        if self._due:
            raise ValueError(f"{self._due} bytes of the promised tensors were not written")
