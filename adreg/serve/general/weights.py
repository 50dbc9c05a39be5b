"""A fitted adapter in the form in which it is computed with: A and B in the model's type, scaling inside B, DoRA as a gain.

Reads files and base weights, attaches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from adreg.errors import FormatError
from adreg.formats.safetensors import TensorView
from adreg.serve.fit import Fitted
from adreg.serve.general.bank import Form, Part

BLOCK = 1 << 22
"""Elements of a base weight that are looked at together."""


@dataclass(eq=False)
class PreparedAdapter:
    """The tensors of an adapter in a bank's order; none while a bank on the same device holds them."""

    form: Form
    tensors: list[Tensor]
    nbytes: int


@dataclass(frozen=True)
class Making:
    """What adapters are made for: a model's modules by name, its families, its type, and a multiple for ranks."""

    modules: Mapping[str, nn.Module]
    families: Sequence[Sequence[str]]
    dtype: torch.dtype
    multiple: int

    def prepare(self, path: Path, fitted: Sequence[Fitted]) -> PreparedAdapter:
        """Read `fitted`, of the file `path`. Raises `FormatError` where a value is too large for the model's type."""
        by_name = {part.lora.name: part for part in fitted}
        parts, tensors = [], list[Tensor]()
        for family in self.families:
            members = [by_name[name] for name in family if name in by_name]
            if members:
                part, read = self._part(members)
                parts.append(part)
                tensors += read
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise FormatError(path, f"holds values that are infinite in {str(self.dtype).removeprefix('torch.')}", "Q-NAN-1")
        return PreparedAdapter(tuple(parts), tensors, sum(tensor.nbytes for tensor in tensors))

    def _part(self, members: Sequence[Fitted]) -> tuple[Part, list[Tensor]]:
        shrinks, rest, ranks = [], list[Tensor](), []
        for member in members:
            a, b = _read(member.lora.a), _read(member.lora.b) * member.lora.scaling
            gain = self._gain(member, a, b) if member.magnitude else None
            if member.site.kind == "embedding":
                b = b * self._output_scale(member.lora.name)
            padding = -len(a) % self.multiple
            a = torch.nn.functional.pad(a, (0, 0, 0, padding))
            b = torch.nn.functional.pad(b, (0, padding))
            shrinks.append(a.T if member.site.kind == "embedding" else a)
            rest += [b.T.contiguous().to(self.dtype), *([] if gain is None else [gain])]
            ranks.append(len(a))
        names = tuple(member.lora.name for member in members)
        part = Part(names, tuple(ranks), tuple(member.magnitude is not None for member in members))
        return part, [torch.cat(shrinks).contiguous().to(self.dtype), *rest]

    def _output_scale(self, name: str) -> float:
        """By how much an embedding multiplies what it looks up, and PEFT what an adapter adds. Gemma 3's does."""
        module = self.modules[name]
        scale = getattr(module, "embed_scale", 1.0)
        return float(torch.as_tensor(scale).to(module.weight.dtype))

    def _gain(self, member: Fitted, a: Tensor, b: Tensor) -> Tensor:
        """m / ‖W + scaling·B·A‖ of every output. Source: peft/tuners/lora/dora.py."""
        assert member.magnitude is not None
        weight = self.modules[member.lora.name].weight
        weight = weight if member.site.kind == "linear" else weight.T
        size = max(1, BLOCK // weight.shape[1])
        norms = [
            torch.linalg.norm(weight[start : start + size].float().cpu() + b[start : start + size] @ a, dim=1)
            for start in range(0, weight.shape[0], size)
        ]
        return _read(member.magnitude) / torch.cat(norms)


def _read(view: TensorView) -> Tensor:
    """A copy in float32; the file's pages may leave memory again."""
    values = torch.tensor(view.float32())
    view.release()
    return values
