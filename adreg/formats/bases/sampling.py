"""Takes the sketch of a base: which values of which tensors, whatever they are stored as.

The places depend on canonical names and shapes alone, so a base and its copies are sampled at the same ones: runs of up
to 256 values along a row, the same number of each large tensor, small ones whole. A second sample is the first column
of up to 128 rows of each matrix: all that GPTQ rounds without having moved it before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.modelconfig import ties_embeddings
from adreg.formats.bases.sketch import EVEN, GROUP, SCALED, UNKNOWN, Segment, Sketch, dump_sketch
from adreg.formats.canonical import OUTPUT_HEAD, canonical_names, is_buffer
from adreg.formats.dtypes import FLOATS, Float32, to_bfloat16, to_float32
from adreg.formats.quantised.packed import FIRST, FP4, MOVED, NEAREST, NF4, PackedTensor
from adreg.formats.safetensors import TensorView

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Places = NDArray[np.int64]

Logical: TypeAlias = TensorView | PackedTensor

VALUE_LIMIT, TENSOR_LIMIT, FIRST_LIMIT, FIRST_ROWS = 1_300_000, 10_000, 40_000, 128
RUN, BATCH, HELD = 256, 1 << 20, 16


def sketch(base: Checkpoint, arch_id: str) -> bytes:
    """The sketch of `base`, whose architecture's id is `arch_id`. Reads only the rows that are sampled."""
    tensors = _sampled(base)
    quotas = _quotas([math.prod(tensor.shape) for tensor in tensors])
    rows = min(FIRST_ROWS, FIRST_LIMIT // max(sum(len(tensor.shape) == 2 for tensor in tensors), 1))
    segments, firsts = [], []
    for tensor, quota in zip(tensors, quotas, strict=True):
        segments.append(_segment(tensor, quota))
        firsts += [_first(tensor, rows)] if len(tensor.shape) == 2 else []
        for view in [tensor] if isinstance(tensor, TensorView) else [base[part] for part in tensor.parts if part in base]:
            view.release()
    return dump_sketch(Sketch(arch_id, tuple(segments), tuple(firsts)))


def _sampled(base: Checkpoint) -> list[Logical]:
    """The tensors that have a part in the sketch, by canonical name; a tied head has none."""
    found = base.logical
    names = canonical_names(name for name in found if not is_buffer(name))
    skipped = OUTPUT_HEAD if ties_embeddings(base.config) else ""
    kept = sorted((canonical, name) for name, canonical in names.items() if canonical != skipped)
    step = -(-len(kept) // TENSOR_LIMIT) or 1
    return [found[name] for _, name in kept[::step]]


def _quotas(sizes: list[int]) -> list[int]:
    """How many values each tensor gives: all of the small ones, and the same number of each of the others."""
    quotas, left, waiting = [0] * len(sizes), VALUE_LIMIT, len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: (sizes[index], index)):
        quotas[index] = min(sizes[index], left // waiting)
        left, waiting = left - quotas[index], waiting - 1
    return quotas


def _places(shape: tuple[int, ...], quota: int) -> tuple[Places, Places, int]:
    """Rows and first columns of the runs, and their length; columns of a tensor count through its later axes."""
    import numpy as np

    rows, width = (1, shape[0]) if len(shape) == 1 else (shape[0], math.prod(shape[1:]))
    if rows * width <= quota:
        return np.arange(rows), np.zeros(rows, np.int64), width
    run = min(RUN, width, max(quota, 1))
    each, runs = width // run, quota // run
    blocks = np.arange(runs) * (rows * each) // max(runs, 1)
    row = blocks // each
    return row, (blocks + row) % each * run, run


def _segment(tensor: Logical, quota: int) -> Segment:
    import numpy as np

    rows, columns, run = _places(tensor.shape, quota)
    if isinstance(tensor, TensorView):
        return _plain(tensor, rows, columns, run)
    values = _picked(tensor.shape, tensor.rows, rows, columns, run)
    kind, block = _kind(tensor, run, len(values))
    if kind in FLOATS:
        return _floats(kind, values)
    if kind not in SCALED or not len(values):
        return _unscaled(kind, block, to_bfloat16(values))
    scales = _picked(tensor.shape, tensor.scales, rows, columns, run)
    scales = np.maximum.reduceat(scales, np.arange(0, len(scales), GROUP))
    if not np.isfinite([scales.sum(), values.sum()]).all():
        return _unscaled(MOVED, block, to_bfloat16(values))
    return Segment(kind, block, to_bfloat16(values), scales, values[::GROUP] if kind in EVEN else values[:0])


def _first(tensor: Logical, count: int) -> Segment:
    """The first value of `count` rows, with a scale for each where it was rounded to the nearest level."""
    import numpy as np

    rows = np.unique(np.arange(count) * tensor.shape[0] // max(count, 1))
    columns = np.zeros_like(rows)
    if isinstance(tensor, TensorView):
        return _plain(tensor, rows, columns, 1)
    if tensor.rounding != FIRST or not len(rows):
        return _unscaled(UNKNOWN, 0, np.zeros(len(rows), np.uint16))
    values = _picked(tensor.shape, tensor.rows, rows, columns, 1)
    scales = _picked(tensor.shape, tensor.scales, rows, columns, 1)
    if not np.isfinite([scales.sum(), values.sum()]).all():
        return _unscaled(UNKNOWN, 0, np.zeros(len(rows), np.uint16))
    return Segment(NEAREST, 0, to_bfloat16(values), scales, values)


def _kind(tensor: PackedTensor, run: int, count: int) -> tuple[str, int]:
    """How the values were rounded; blocks of 4-bit codes that a run would cut are of no use."""
    said = tensor.quantisation
    if said is None:
        return tensor.rounding, 0
    cut = tensor.rounding in (NF4, FP4) and run % said.group and count != math.prod(tensor.shape)
    return (MOVED if cut or tensor.rounding == FIRST else tensor.rounding), said.group


def _unscaled(kind: str, block: int, bits: NDArray[np.uint16]) -> Segment:
    import numpy as np

    none = np.zeros(0, np.float32)
    return Segment(kind, block, bits, none, none)


def _floats(kind: str, values: Float32) -> Segment:
    import numpy as np

    bits = values.astype(np.float16).view(np.uint16) if kind == "F16" else to_bfloat16(values)
    exact = kind != "F32" or not (values.view(np.uint32) & np.uint32(0xFFFF)).any()
    return _unscaled(kind, int(exact), bits)


def _plain(view: TensorView, rows: Places, columns: Places, run: int) -> Segment:
    """Values of a tensor that is not quantised, straight from the file."""
    import numpy as np

    if view.dtype not in FLOATS:
        return _unscaled(UNKNOWN, 0, np.zeros(len(rows) * run, np.uint16))
    raw = np.frombuffer(view.data, "<u4" if view.dtype == "F32" else "<u2")
    width = 0 if len(view.shape) < 2 else len(raw) // max(view.shape[0], 1)
    starts, runs = rows * width + columns, [np.zeros((0, run), raw.dtype)]
    for first in range(0, len(starts), HELD):
        runs.append(raw[starts[first : first + HELD, None] + np.arange(run)])
        view.release()  # each page touched can bring megabytes of neighbours along
    picked = np.concatenate(runs).reshape(-1)
    return _floats("F32", to_float32(picked.data, "F32")) if view.dtype == "F32" else _unscaled(view.dtype, 1, picked)


@dataclass(frozen=True)
class _Batch:
    """Runs that one reading of the rows `first:last` serves; `starts` are their places in those rows."""

    first: int
    last: int
    starts: Places


def _picked(shape: tuple[int, ...], read: Callable[[int, int], Float32], rows: Places, columns: Places, run: int) -> Float32:
    """The runs, from as many readings of rows as they need."""
    import numpy as np

    found = [np.zeros(0, np.float32)]
    for batch in _batches(shape, rows, columns):
        flat = read(batch.first, batch.last).reshape(-1)
        found.append(flat[batch.starts[:, None] + np.arange(run)].reshape(-1))
    return np.concatenate(found)


def _batches(shape: tuple[int, ...], rows: Places, columns: Places) -> Iterator[_Batch]:
    """Where the runs are few among the rows, each row is read by itself; else all the rows between them."""
    import numpy as np

    if len(shape) == 1:
        yield _Batch(0, shape[0], columns)
        return
    width = math.prod(shape[1:])
    length = max(1, BATCH // width) if len(rows) * 8 > shape[0] else 1
    cuts = np.flatnonzero(np.diff(rows // length)) + 1
    for row, column in zip(np.split(rows, cuts), np.split(columns, cuts), strict=True):
        if len(row):
            yield _Batch(int(row[0]), int(row[-1]) + 1, (row - row[0]) * width + column)
