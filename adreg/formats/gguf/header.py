"""A strict reader of GGUF files: fields and tensors are checked whole, tensors are mapped, not read.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Every count, length
and offset is held against the file before it is used. Refuses to know what the fields and tensors mean.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adreg.errors import FormatError
from adreg.formats.safetensors import DIMENSION_LIMIT, TENSOR_LIMIT, TensorView

MAGIC = b"GGUF"
VERSIONS = (2, 3)
FIELD_LIMIT = 10_000
ELEMENT_LIMIT = 4_000_000
NAME_LIMIT = 512
ALIGNMENT_LIMIT = 1 << 20
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# number: name, elements and bytes of a block
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip


@dataclass(frozen=True)
class GgufFile:
    """The fields of a file by key, and its tensors by name with row-major shapes."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, TensorView]
    status: os.stat_result


def is_gguf(path: Path) -> bool:
    """Whether the file at `path` begins as a GGUF file does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read_gguf(path: Path) -> GgufFile:
    """Map the file at `path` and check its header whole. Raises `FormatError` with a G- rule."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(path, "is not a regular file", "F-DIR-1")
        if status.st_size < 24:
            raise FormatError(path, f"is only {status.st_size} bytes: no GGUF file", "G-HDR-1")
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    header = _Header(path, whole)
    tensor_count, field_count = header.start()
    fields = header.fields(field_count)
    return GgufFile(path, fields, header.tensors(tensor_count, fields.get("general.alignment", 32)), status)


class _Header:
    """A cursor over the header; every step is checked against the end of the file."""

    def __init__(self, path: Path, whole: memoryview) -> None:
        self.path, self.whole, self.at, self.elements = path, whole, 0, 0

    def start(self) -> tuple[int, int]:
        """The numbers of tensors and of fields."""
        if self.take(4) != MAGIC:
            raise self.error("does not begin as a GGUF file does")
        version = self.number("I")
        if version not in VERSIONS:
            raise self.error(f"has GGUF version {version}; adreg reads little-endian versions 2 and 3")
        tensors, fields = self.number("Q"), self.number("Q")
        if tensors > TENSOR_LIMIT or fields > FIELD_LIMIT:
            raise self.error(f"claims {tensors} tensors and {fields} fields; the limits are {TENSOR_LIMIT} and {FIELD_LIMIT}")
        return tensors, fields

    def fields(self, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            key, kind = self.text(), self.number("I")
            if key in found or not key or len(key) > NAME_LIMIT:
                raise self.error(f"has the field {key[:80]!r} twice, or without a usable name")
            found[key] = self.array(key) if kind == ARRAY else self.value(kind)
        return found

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind not in SCALARS:
            raise self.error(f"has a field of the unknown type {kind}")
        return self.number(SCALARS[kind])

    def array(self, key: str) -> list[Any]:
        kind, count = self.number("I"), self.number("Q")
        self.elements += count
        if self.elements > ELEMENT_LIMIT:
            raise self.error(f"has fields of more than {ELEMENT_LIMIT} elements, with {count} in {key!r}")
        if kind == STRING:
            return [self.text() for _ in range(count)]
        if kind not in SCALARS:
            raise self.error(f"has an array of the unknown type {kind} in {key!r}")
        form = f"<{count}{SCALARS[kind]}"
        return list(struct.unpack(form, self.take(struct.calcsize(form))))

    def tensors(self, count: int, alignment: Any) -> dict[str, TensorView]:
        if type(alignment) is not int or not 0 < alignment <= ALIGNMENT_LIMIT or alignment & (alignment - 1):
            raise self.error(f"has the alignment {alignment!r}, which is no power of two")
        if not count:
            raise self.error("holds no tensors")
        entries = [self.entry() for _ in range(count)]
        front = -(-self.at // alignment) * alignment
        data = self.whole[front:]
        found: dict[str, TensorView] = {}
        end = 0
        for name, dtype, shape, begin, size in sorted(entries, key=lambda entry: entry[3]):
            if name in found:
                raise self.error(f"holds tensor {name!r} twice")
            if begin < end or begin % alignment or begin + size > len(data):
                raise self.error(f"puts tensor {name!r} at byte {begin}: outside the file, unaligned or over another")
            found[name] = TensorView(name, dtype, shape, data[begin : begin + size], front + begin)
            end = begin + size
        return found

    def entry(self) -> tuple[str, str, tuple[int, ...], int, int]:
        name, dimensions = self.text(), self.number("I")
        if not name or len(name) > NAME_LIMIT or not name.isprintable() or not 1 <= dimensions <= 4:
            raise self.error(f"has a tensor {name[:80]!r} with {dimensions} dimensions")
        shape = tuple(reversed([self.number("Q") for _ in range(dimensions)]))
        kind, begin = self.number("I"), self.number("Q")
        if kind not in TYPES:
            raise self.error(f"has tensor {name!r} of the unknown type {kind}")
        dtype, block, size = TYPES[kind]
        if any(not 0 < length < DIMENSION_LIMIT for length in shape) or (shape[-1] if shape else 1) % block:
            raise self.error(f"has tensor {name!r} of shape {list(shape)}, which cannot be of type {dtype}")
        return name, dtype, shape, begin, math.prod(shape) // block * size

    def text(self) -> str:
        raw = self.take(self.number("Q"))
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"has a text that is not UTF-8 before byte {self.at}") from error

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def take(self, size: int) -> memoryview:
        """The next `size` bytes of the header."""
        if size > len(self.whole) - self.at:
            raise self.error(f"is cut short: {size} bytes belong at byte {self.at}, and {len(self.whole) - self.at} follow")
        self.at += size
        return self.whole[self.at - size : self.at]

    def error(self, why: str) -> FormatError:
        return FormatError(self.path, why, "G-HDR-1")
