"""Which layers of a model are computed by our own functions: PEFT's plain LoRA layers, and blocks of known architectures.

PEFT casts the input to the adapter's float32 and adds, scales and casts in separate operations; on a CPU that is a fifth of
a training step. Knows PEFT's layers; what is computed in their place is in `lowrank`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from adreg.train.model.lowrank import Frozen, LoraGroup

ADAPTER = "default"


def fuse(model: nn.Module) -> int:
    """Replace the forward pass of every plain LoRA layer in `model`, and of the blocks of known architectures around them.

    Returns how many LoRA layers there are. Other layers keep PEFT's own: DoRA, LoRA with a bias, quantised bases.
    """
    from adreg.train.model.blocks import fuse_blocks

    plain = [module for module in model.modules() if isinstance(module, Linear) and is_plain(module)]
    for module in plain:
        module.forward = _Forward(module, module.forward)
    fuse_blocks(model)
    return len(plain)


def is_plain(module: nn.Module) -> bool:
    """Whether the layer is W x + bias + s B A dropout(x) with frozen W, or W x + bias alone, and nothing else."""
    if isinstance(module, Linear):
        known = (
            list(module.lora_A) == [ADAPTER]
            and not module.lora_bias[ADAPTER]
            and ADAPTER not in module.lora_variant
            and type(module.lora_dropout[ADAPTER]) in (nn.Identity, nn.Dropout)
        )
        return known and is_plain(module.base_layer)
    return type(module) in (nn.Linear, _conv1d()) and not any(one.requires_grad for one in module.parameters())


def _conv1d() -> type[nn.Module]:
    from transformers.pytorch_utils import Conv1D

    return Conv1D  # type: ignore[no-any-return]


class Branch(NamedTuple):
    """A layer with its factors A (r, in) and B (out, r); both None for a layer without an adapter."""

    frozen: Frozen
    a: Tensor | None
    b: Tensor | None


def branch_of(module: Any) -> Branch:
    """A layer for which `is_plain` holds, as it stands at this moment."""
    adapted = isinstance(module, Linear)
    base = module.base_layer if adapted else module
    weight = base.weight if isinstance(base, nn.Linear) else base.weight.t()
    if not adapted or module.disable_adapters or module.merged:
        return Branch(Frozen(weight, base.bias), None, None)
    dropout = module.lora_dropout[ADAPTER]
    rate = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    frozen = Frozen(weight, base.bias, module.scaling[ADAPTER], rate)
    return Branch(frozen, module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight)


def factors_of(branches: Sequence[Branch]) -> list[Tensor | None]:
    """A and B of each layer in turn."""
    return [factor for branch in branches for factor in (branch.a, branch.b)]


def project(x: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
    """The outputs of layers that read the same `x` (..., in)."""
    return LoraGroup.apply(x, tuple(branch.frozen for branch in branches), *factors_of(branches))  # type: ignore[no-any-return]


class _Forward:
    """Calls the fused function, or PEFT's own `forward` where that is asked for anything more."""

    def __init__(self, module: Linear, original: Any) -> None:
        self.module, self.original = module, original

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        if module.disable_adapters or module.merged or args or kwargs:
            return self.original(x, *args, **kwargs)
        return project(x, [branch_of(module)])[0]
