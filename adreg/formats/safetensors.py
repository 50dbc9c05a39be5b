"""A strict reader of safetensors files: the header is checked whole, tensors are mapped, not read.

Format: https://github.com/huggingface/safetensors#format. Stricter than the library: no duplicate keys, no
unknown fields, no odd names, nothing outside the tensors. Refuses to know what the tensors mean.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adreg.errors import FormatError
from adreg.formats.dtypes import BITS, Float32, to_float32
from adreg.formats.strictjson import JsonObject, parse_reporting

HEADER_LIMIT = 25_000_000
TENSOR_LIMIT = 100_000
NAME_LIMIT = 512
DIMENSION_LIMIT = 2**40
FOLIO = 1 << 21  # bytes; no system in use maps file pages in larger pieces
PROBLEM_LIMIT = 100
Entry = tuple[str, str, tuple[int, ...], int, int]


@dataclass(frozen=True)
class TensorView:
    """One tensor of a file: `data` is its bytes, row-major, little-endian; they begin at `offset` of the mapped file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview
    offset: int = 0

    @property
    def nbytes(self) -> int:
        return len(self.data)

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def float32(self) -> Float32:
        """The values as float32 in `shape`; a view of the file for F32, else an exact copy."""
        return to_float32(self.data, self.dtype).reshape(self.shape)

    def rows(self, start: int, stop: int) -> Float32:
        """Rows `start:stop` of the first axis as float32."""
        width = self.nbytes // self.shape[0]
        block = to_float32(self.data[start * width : stop * width], self.dtype)
        return block.reshape(-1, *self.shape[1:])

    def windows(self, size: int) -> Iterator[memoryview]:
        """The bytes in order, `size` at most at a time; asking for the next lets go of the one before."""
        for start in range(0, self.nbytes, size):
            yield self.data[start : start + size]
            self.release(start, start + size)

    def release(self, start: int = 0, stop: int | None = None) -> None:
        """Let the pages of bytes `start:stop` leave the process's memory; whoever looks again maps them again."""
        mapped = self.data.obj
        if isinstance(mapped, mmap.mmap):
            # a touched page may bring its whole large folio into the process, the neighbours' pages too
            first = (self.offset + start) // FOLIO * FOLIO
            end = self.offset + min(self.nbytes if stop is None else stop, self.nbytes)
            last = min(-(-end // FOLIO) * FOLIO, len(mapped))
            if last > first:
                mapped.madvise(mmap.MADV_DONTNEED, first, last - first)


@dataclass(frozen=True)
class SafetensorsFile(Mapping[str, TensorView]):
    """The tensors of one file by name, in the order of their bytes."""

    path: Path
    tensors: dict[str, TensorView]
    metadata: dict[str, str]
    status: os.stat_result

    def __getitem__(self, name: str) -> TensorView:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def release(self) -> None:
        """Let the pages of all tensors leave the process's memory; whoever looks again maps them again."""
        mapped = next(iter(self.values())).data.obj
        if isinstance(mapped, mmap.mmap):
            mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Survey:
    """What could be read of a file, and everything in it that breaks the format; no tensor's bytes may be trusted then."""

    file: SafetensorsFile | None
    problems: tuple[FormatError, ...]


def survey_safetensors(path: Path) -> Survey:
    """As `open_safetensors`, but it goes on behind a broken part and lists the first `PROBLEM_LIMIT` of them."""
    problems: list[FormatError] = []
    try:
        return Survey(_open(path, problems.append), tuple(problems[:PROBLEM_LIMIT]))
    except FormatError as error:
        return Survey(None, (*problems[: PROBLEM_LIMIT - 1], error))


def open_safetensors(path: Path) -> SafetensorsFile:
    """Map the file at `path` and check its header whole. Raises `FormatError` with an F- rule."""
    return _open(path, _refuse)


def _refuse(error: FormatError) -> None:
    raise error


def _open(path: Path, report: Callable[[FormatError], None]) -> SafetensorsFile:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(path, "is not a regular file", "F-DIR-1")
        if status.st_size < 10:
            raise FormatError(path, f"is only {status.st_size} bytes: no safetensors file", "F-HDR-1")
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    length = _header_length(path, whole)
    header = _header(path, bytes(whole[8 : 8 + length]), report)
    metadata = _metadata(path, header.pop("__metadata__", {}), report)
    tensors = _tensors(path, header, whole, 8 + length, report)
    return SafetensorsFile(path, tensors, metadata, status)


def _header_length(path: Path, whole: memoryview) -> int:
    length = int.from_bytes(whole[:8], "little")
    if length > HEADER_LIMIT:
        raise FormatError(path, f"its header claims {length} bytes; the limit is {HEADER_LIMIT}", "F-HDR-1")
    if length > len(whole) - 8:
        raise FormatError(path, f"is cut short: its header needs {length} bytes and {len(whole) - 8} follow", "F-HDR-1")
    return length


def _header(path: Path, text: bytes, report: Callable[[FormatError], None]) -> JsonObject:
    if not text.startswith(b"{"):
        report(FormatError(path, "its header does not start with '{'", "F-HDR-2"))
    if not text.rstrip(b" ").endswith(b"}"):
        report(FormatError(path, "its header ends in something other than spaces", "F-HDR-2"))
    return parse_reporting(text, path, "F-HDR-3", report)


def _metadata(path: Path, metadata: object, report: Callable[[FormatError], None]) -> dict[str, str]:
    if isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values()):
        return metadata
    report(FormatError(path, "its __metadata__ is not a map of strings", "F-HDR-4"))
    return {}


def _tensors(
    path: Path, header: JsonObject, whole: memoryview, front: int, report: Callable[[FormatError], None]
) -> dict[str, TensorView]:
    payload = whole[front:]
    if not header:
        raise FormatError(path, "holds no tensors", "F-EMP-1")
    if len(header) > TENSOR_LIMIT:
        raise FormatError(path, f"holds {len(header)} tensors; the limit is {TENSOR_LIMIT}", "F-HDR-5")
    entries, all_read = _entries(path, header, report)
    end, found = 0, {}
    for name, dtype, shape, begin, stop in entries:
        if begin != end and all_read:
            kind = "a hole" if begin > end else "an overlap"
            report(FormatError(path, f"{kind} in its data before tensor {name!r} (byte {end})", "F-OFF-1"))
        if stop > len(payload) >= end:
            why = f"is cut short: tensor {name!r} ends at byte {stop}, the data at {len(payload)}"
            report(FormatError(path, why, "F-OFF-1"))
        found[name] = TensorView(name, dtype, shape, payload[begin:stop], front + begin)
        end = max(stop, end)
    if end < len(payload) and all_read:
        report(FormatError(path, f"{len(payload) - end} bytes follow its last tensor", "F-OFF-1"))
    return found


def _entries(path: Path, header: JsonObject, report: Callable[[FormatError], None]) -> tuple[list[Entry], bool]:
    """The entries in the order of their bytes, and whether every one of them could be read."""
    found: list[Entry] = []
    for name, entry in header.items():
        try:
            found.append(_entry(path, name, entry))
        except FormatError as error:
            report(error)
    return sorted(found, key=lambda entry: (entry[3], entry[4])), len(found) == len(header)


def _entry(path: Path, name: str, entry: object) -> Entry:
    _check_name(path, name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(path, f"tensor {name!r} must have exactly dtype, shape and data_offsets", "F-HDR-4")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise FormatError(path, f"tensor {name!r} has the unknown type {dtype!r}", "F-DTY-1")
    if not _integers(shape) or not _integers(offsets) or len(offsets) != 2:
        raise FormatError(path, f"tensor {name!r} has a shape or offsets that are not small whole numbers", "F-OFF-2")
    begin, stop = offsets
    if (stop - begin) * 8 != math.prod(shape) * BITS[dtype]:
        raise FormatError(path, f"tensor {name!r} has {stop - begin} bytes for {dtype} {shape}", "F-OFF-2")
    return name, dtype, tuple(shape), begin, stop


def _integers(values: object) -> bool:
    """Whether `values` is a short list of whole numbers that no arithmetic here can overflow."""
    return (
        isinstance(values, list)
        and len(values) <= 8
        and all(type(value) is int and 0 <= value < DIMENSION_LIMIT for value in values)
    )


def _check_name(path: Path, name: str) -> None:
    if name.isascii() and name.isprintable():
        odd = not name or len(name) > NAME_LIMIT or ".." in name or "/" in name or "\\" in name
    else:
        odd = (
            len(name) > NAME_LIMIT
            or any(character in "/\\" or unicodedata.category(character).startswith("C") for character in name)
            or unicodedata.normalize("NFC", name) != name
            or ".." in name
        )
    if odd:
        raise FormatError(
            path, f"tensor name {name[:80]!r} is empty, too long, or holds path or invisible characters", "F-NAM-1"
        )
