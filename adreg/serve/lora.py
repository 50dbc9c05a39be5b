"""Resident adapters, applied by forward hooks to an otherwise untouched model. Knows digests, not names or requests.

Every adapted module has one hook. It looks up the adapter of the running step among those that adapt this module;
a step on the base finds nothing and the module's output stays the very tensor that it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adreg.serve.fit import Fitted

if TYPE_CHECKING:
    import torch
    from torch import nn

Hook = Callable[["nn.Module", tuple[Any, ...], "torch.Tensor"], "torch.Tensor | None"]


@dataclass(frozen=True)
class LoraWeights:
    """A (rank, in) and B (rank, out) in float32 on the model's device, the scaling folded into B."""

    a: torch.Tensor
    b: torch.Tensor


@dataclass
class StepContext:
    """What the hooks know of the running step: the digest of its adapter, or None for the base."""

    adapter: str | None = None


class AdapterPool:
    """The adapters that a model can run with, by digest. Only the engine's thread may run steps."""

    def __init__(self) -> None:
        self._step = StepContext()
        self._modules: dict[nn.Module, dict[str, LoraWeights]] = defaultdict(dict)
        self._resident: set[str] = set()

    def load(self, digest: str, fitted: Sequence[Fitted]) -> None:
        """Make the adapter `digest` resident; a digest that is resident already stays as it is."""
        if digest in self._resident:
            return
        for part in fitted:
            if part.module not in self._modules:
                part.module.register_forward_hook(self._hook(part.lora.embedding, self._modules[part.module]))
            self._modules[part.module][digest] = _weights(part)
        self._resident.add(digest)

    @contextmanager
    def using(self, digest: str | None) -> Iterator[None]:
        """Within: every forward of the model is one on the adapter `digest`, or on the base alone."""
        if digest is not None and digest not in self._resident:
            raise KeyError(f"adapter {digest} is not resident")
        self._step.adapter = digest
        try:
            yield
        finally:
            self._step.adapter = None

    def _hook(self, embedding: bool, residents: dict[str, LoraWeights]) -> Hook:
        from torch.nn.functional import embedding as look_up
        from torch.nn.functional import linear

        step = self._step

        def adapt(_: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
            if step.adapter is None:
                return None
            weights = residents.get(step.adapter)
            if weights is None:
                return None
            inner = look_up(inputs[0], weights.a.T) if embedding else linear(inputs[0].float(), weights.a)
            return (output + inner @ weights.b).to(output.dtype)

        return adapt


def _weights(part: Fitted) -> LoraWeights:
    import torch

    device = part.module.weight.device
    a = torch.tensor(part.lora.a.float32())
    b = torch.tensor(part.lora.b.float32()).T.contiguous() * part.lora.scaling
    return LoraWeights(a.to(device), b.to(device))
