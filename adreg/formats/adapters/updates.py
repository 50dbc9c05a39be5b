"""The weight that an update of any family fits, told by the shapes of its parts. Knows shapes, no values and no base."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from adreg.formats.adapters.familykeys import Kind
from adreg.formats.safetensors import TensorView

Parts = Mapping[str, TensorView]
Shape = tuple[int, ...]


class Fit(NamedTuple):
    """Rows (output features) and columns (input features) of the weight, each None where the parts do not tell."""

    rows: int | None
    columns: int | None

    def takes(self, rows: int, columns: int) -> bool:
        return self.rows in (None, rows) and self.columns in (None, columns)

    def __str__(self) -> str:
        return f"({'any' if self.rows is None else self.rows}, {'any' if self.columns is None else self.columns})"


def fit_of(parts: Parts, kind: Kind) -> Fit | None:
    """What the module's parts fit, or None where they do not tell, or contradict each other in form. `kind` tells
    LoKr's factors from LoHa's, which have the same names where both are products."""
    shapes = {part: view.shape for part, view in parts.items()}
    measures = (_lokr,) if kind is Kind.LOKR else MEASURES
    return next((found for measure in measures if (found := measure(shapes))), None)


def _lora(shapes: Mapping[str, Shape]) -> Fit | None:
    """A (rank, in), B (out, rank); a convolution's have two dimensions more."""
    a, b = shapes.get("A", ()), shapes.get("B", ())
    return Fit(b[0], a[1]) if len(a) == len(b) and len(a) in (2, 4) else None


def _embedding(shapes: Mapping[str, Shape]) -> Fit | None:
    """A (rank, vocabulary), B (width, rank)."""
    a, b = shapes.get("embedding_A", ()), shapes.get("embedding_B", ())
    return Fit(a[1], b[0]) if len(a) == len(b) == 2 else None


def _loha(shapes: Mapping[str, Shape]) -> Fit | None:
    left, right = shapes.get("w1_a", ()), shapes.get("w1_b", ())
    return Fit(left[0], right[1]) if "w2_a" in shapes and "t1" not in shapes and len(left) == len(right) == 2 else None


def _lokr(shapes: Mapping[str, Shape]) -> Fit | None:
    """The Kronecker product of two matrices, each whole or as a product of two."""
    one, two = _factor(shapes, "w1"), _factor(shapes, "w2")
    return Fit(one[0] * two[0], one[1] * two[1]) if one and two and "t2" not in shapes else None


def _factor(shapes: Mapping[str, Shape], name: str) -> Shape:
    left, right = shapes.get(f"{name}_a", ()), shapes.get(f"{name}_b", ())
    product = (left[0], right[1]) if len(left) == len(right) == 2 else ()
    whole = shapes.get(name, product)
    return whole if len(whole) == 2 else ()


def _ia3(shapes: Mapping[str, Shape]) -> Fit | None:
    """A column scales the outputs, a row the inputs."""
    scale = shapes.get("l", ())
    if len(scale) != 2 or scale.count(1) != 1:
        return None
    return Fit(scale[0], None) if scale[1] == 1 else Fit(None, scale[1])


def _oft(shapes: Mapping[str, Shape]) -> Fit | None:
    """Blocks of rotations of the inputs, each the b(b - 1)/2 numbers above the diagonal; one block may be for all."""
    rotations = shapes.get("R", ())
    if "s" in shapes or len(rotations) != 2 or rotations[0] < 2:
        return None
    block = (1 + math.isqrt(1 + 8 * rotations[1])) // 2
    return Fit(None, rotations[0] * block) if block * (block - 1) // 2 == rotations[1] else None


def _rows_of(part: str) -> Callable[[Mapping[str, Shape]], Fit | None]:
    def measure(shapes: Mapping[str, Shape]) -> Fit | None:
        shape = shapes.get(part, ())
        return Fit(shape[0], None) if shape and shape[1:] in ((), (1,)) else None

    return measure


MEASURES = (_lora, _embedding, _loha, _lokr, _ia3, _oft, _rows_of("s"), _rows_of("lambda_b"), _rows_of("weight"))
