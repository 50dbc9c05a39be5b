"""One tensor of an artifact as it is planned: its name, type, shape and size, and where its values come from."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.export.fold import Folded


@dataclass(frozen=True)
class PlannedTensor:
    """`shape` is row-major; `values` are those of a tensor that no base tensor gives.

    `rotary` is the head size of a q or k projection whose rows llama.cpp wants interleaved, else 0.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    folded: Folded | None
    rotary: int = 0
    values: tuple[float, ...] = ()

    @property
    def adapted(self) -> bool:
        return self.folded is not None and bool(self.folded.terms)
