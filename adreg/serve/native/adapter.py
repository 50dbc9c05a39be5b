"""Adapters packed for decoder.c: A in rows, B in strips with the scaling folded in, DoRA's gains. Knows no slots."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adreg.errors import UnsupportedError
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.dtypes import Float32
from adreg.formats.safetensors import TensorView
from adreg.serve.fit import Fitted, Site
from adreg.serve.native import structs
from adreg.serve.native.architecture import Architecture
from adreg.serve.native.units import LANES, Format, in_strips, settled
from adreg.serve.native.weights import EMBEDDING, HEAD, SITES, shapes

BLOCK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class PackedAdapter:
    """`low` is decoder.c's table of the adapter's projections, of rank `rank` at most; `arrays` is what it points into."""

    low: Any
    rank: int
    arrays: tuple[NDArray[Any], ...]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays) + ctypes.sizeof(self.low)

    @property
    def address(self) -> int:
        return ctypes.addressof(self.low)


def sites(architecture: Architecture) -> dict[str, Site]:
    """Every module that an adapter can adapt."""
    found = {name: Site("linear", inside, outside) for name, (outside, inside) in shapes(architecture).items()}
    found[HEAD] = Site("linear", architecture.hidden, architecture.vocabulary, architecture.tied)
    found[EMBEDDING] = Site("embedding", architecture.vocabulary, architecture.hidden, architecture.tied)
    return found


def places(architecture: Architecture) -> dict[str, int]:
    """Where each module stands in `low`: the layers' projections, then the head, then the embedding."""
    names = [f"model.layers.{index}.{site}" for index in range(architecture.layers) for site in SITES]
    return {name: place for place, name in enumerate([*names, HEAD, EMBEDDING])}


def pack(fitted: Sequence[Fitted], checkpoint: Checkpoint, architecture: Architecture, form: Format) -> PackedAdapter:
    """`fitted`, which are an adapter's parts on the base `checkpoint`, in the form that decoder.c reads."""
    parts = [(_packed_a(part, form), _packed_b(part, form), _gain(part, checkpoint, architecture)) for part in fitted]
    arrays = settled([array for part in parts for array in part])
    where = places(architecture)
    low = (structs.Low * len(where))()
    for index, part in enumerate(fitted):
        a, b, gain = (array.ctypes.data if array.size else None for array in arrays[3 * index : 3 * index + 3])
        low[where[part.lora.name]] = structs.Low(a, b, gain, part.lora.rank, form.units(part.lora.rank))
    return PackedAdapter(low, max(part.lora.rank for part in fitted), tuple(arrays))


def _packed_a(part: Fitted, form: Format) -> NDArray[Any]:
    """(rank, units of the input), padded as inputs are; of an embedding (vocabulary, units of the rank)."""
    if part.lora.embedding:
        return form.of_floats(np.ascontiguousarray(part.lora.a.float32().T))
    rows = form.of_view(part.lora.a)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % LANES)))


def _packed_b(part: Fitted, form: Format) -> NDArray[Any]:
    return in_strips(form.of_floats(part.lora.b.float32() * np.float32(part.lora.scaling)))


def _gain(part: Fitted, checkpoint: Checkpoint, architecture: Architecture) -> NDArray[Any]:
    """DoRA's magnitude / ||W + scaling * B A||, the norm over the inputs of each output; empty for plain LoRA.

    Source: peft tuners/lora/dora.py.
    """
    if part.magnitude is None:
        return np.empty(0, np.float32)
    if part.lora.embedding and architecture.gemma:
        raise UnsupportedError("DoRA on an embedding that the base scales", "merge it into the base and serve that")
    weight = checkpoint.get(part.lora.weight) or checkpoint[f"{EMBEDDING}.weight"]
    a, b = part.lora.a.float32(), part.lora.b.float32() * np.float32(part.lora.scaling)
    squares = np.zeros(part.site.outside, np.float64)
    for start, block in _blocks(weight):
        if part.lora.embedding:
            squares += np.square(block + a[:, start : start + len(block)].T @ b.T, dtype=np.float64).sum(axis=0)
        else:
            rows = slice(start, start + len(block))
            squares[rows] = np.square(block + b[rows] @ a, dtype=np.float64).sum(axis=1)
    gain = part.magnitude.float32() / np.sqrt(squares).astype(np.float32)
    return np.pad(gain, (0, -len(gain) % LANES))


def _blocks(view: TensorView) -> Iterator[tuple[int, Float32]]:
    for start in range(0, view.shape[0], BLOCK_ROWS):
        yield start, view.rows(start, min(start + BLOCK_ROWS, view.shape[0]))
