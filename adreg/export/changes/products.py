"""AdaLoRA and VeRA: updates by a product of two matrices, of which a vector scales one or both.

Sources: peft tuners/adalora/layer.py and tuners/vera/layer.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from adreg.errors import UnsupportedError
from adreg.export.changes.change import Change
from adreg.export.changes.source import AdaptedModule, Source
from adreg.export.fold.lora import ProductUpdate
from adreg.formats.adapters import values as check
from adreg.formats.dtypes import Float32
from adreg.formats.safetensors import TensorView


def adalora_changes(module: AdaptedModule) -> Iterator[Change]:
    """B @ (A * E), times alpha over the rank that it started with; pruning leaves fewer rows of A and E."""
    name, transposed = module.linear()
    source, rank = module.source, module.parts["A"].shape[0]
    a, e = module.shaped("A", rank, module.parts["A"].shape[1]), module.shaped("E", rank, 1)
    b = module.shaped("B", module.parts["B"].shape[0], rank)
    path, raw = source.adapter.config.path, source.adapter.config.raw
    first, alpha = check.rank(path, "init_r", raw.get("init_r", 12)), check.alpha(path, "lora_alpha", raw.get("lora_alpha", 8))
    factor = source.weight * alpha / (first + 1e-5)
    update = ProductUpdate(partial(_times, a, e), b.float32, factor, source.label, transposed)
    yield Change(name, source, update, additive=True)


def vera_changes(module: AdaptedModule) -> Iterator[Change]:
    """(lambda_b * B) @ (lambda_d * A) with projections that all modules share, cut to the size of the weight."""
    name, transposed = module.linear()
    source, shape = module.source, module.weights.view(name).shape
    rows, columns = shape[::-1] if transposed else shape
    rank = module.parts["lambda_d"].count
    lambda_d, lambda_b = module.shaped("lambda_d", rank), module.shaped("lambda_b", rows)
    a, b = _projections(source, rank, rows, columns)
    scaled_a, scaled_b = partial(_times, a, lambda_d, columns=columns), partial(_times, b, lambda_b, rows=rows)
    yield Change(name, source, ProductUpdate(scaled_a, scaled_b, source.weight, source.label, transposed), additive=True)


def _projections(source: Source, rank: int, rows: int, columns: int) -> tuple[TensorView, TensorView]:
    """The shared A (rank, at least `columns`) and B (at least `rows`, rank)."""
    shared = source.family.shared
    if not {"vera_A", "vera_B"} <= set(shared):
        raise UnsupportedError(f"merging {source.label}, whose VeRA projections are not in its file,", "save them with it")
    a, b = shared["vera_A"], shared["vera_B"]
    fitting = len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1] == rank
    if not fitting or a.shape[1] < columns or b.shape[0] < rows:
        why = f"vera_A {a.shape} and vera_B {b.shape} are too small for rank {rank} and a weight {(rows, columns)}"
        raise source.refusal(why, "B-SHP-2")
    return a, b


def _times(matrix: TensorView, scales: TensorView, rows: int | None = None, columns: int | None = None) -> Float32:
    """The first `rows` and `columns` of `matrix`, every row times its number in `scales`."""
    product: Float32 = matrix.float32()[:rows, :columns] * scales.float32().reshape(-1, 1)
    return product
