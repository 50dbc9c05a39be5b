"""The merge arithmetic: W + sum of factor * (B @ A), in float32, one block of rows at a time.

Knows numbers only: which tensor takes which adapter is decided in `targets`, where the result goes in the writers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adreg.errors import FormatError
from adreg.formats.adapters.adapter import LoraModule
from adreg.formats.dtypes import Float32
from adreg.formats.safetensors import TensorView

if TYPE_CHECKING:
    import torch

BLOCK_ELEMENTS = 1 << 23


@dataclass(frozen=True)
class Term:
    """One adapter's update of one tensor; `factor` is the user's weight times the module's own scaling."""

    module: LoraModule
    factor: float
    label: str


@dataclass(frozen=True)
class Folded:
    """A base tensor and the updates it takes.

    `transposed` says that it is stored as (in, out), as Conv1D weights and embeddings are: there the update is
    (B @ A)^T. Source: peft tuners/lora/layer.py, `get_delta_weight`.
    """

    view: TensorView
    terms: tuple[Term, ...] = ()
    transposed: bool = False

    def blocks(self, group: int = 1) -> Iterator[Float32]:
        """The merged values in float32, in blocks of whole groups of `group` rows, about 32 MiB each.

        Nothing is rounded here but the float32 sums. Raises `FormatError` (Q-NAN-1) for a result that is not finite.
        """
        rows = self.view.shape[0]
        width = max(self.view.count // max(rows, 1), 1)
        step = max(BLOCK_ELEMENTS // width // group, 1) * group
        for start in range(0, rows, step):
            yield self._block(start, min(start + step, rows))

    def _block(self, start: int, stop: int) -> Float32:
        values = self.view.rows(start, stop)
        if not self.terms:
            return values
        import torch

        merged = torch.tensor(values)
        for term in self.terms:
            merged += self._update(term, start, stop) * term.factor
        if not torch.isfinite(merged).all():
            labels = ", ".join(term.label for term in self.terms)
            raise FormatError(self.view.name, f"is no longer finite after merging {labels}", "Q-NAN-1")
        block: Float32 = merged.numpy()
        return block

    def _update(self, term: Term, start: int, stop: int) -> torch.Tensor:
        """Rows `start:stop` of B @ A, or of its transpose."""
        import torch

        a, b = torch.tensor(term.module.a.float32()), torch.tensor(term.module.b.float32())
        return (b @ a[:, start:stop]).T if self.transposed else b[start:stop] @ a
