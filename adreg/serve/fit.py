"""Whether an adapter fits a model, decided before anything is served: its form, modules, shapes and values.

Refuses by name what would be ignored, misread or dangerous for others. Knows torch modules, applies nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adreg.errors import ConflictError, FormatError, UnsupportedError
from adreg.formats.adapters.adapter import Adapter, LoraModule
from adreg.formats.dtypes import FLOATS
from adreg.formats.safetensors import TensorView

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

BLOCK_ROWS = 4096
OTHER_BASE = "it was trained on another base; serve it on that one"


@dataclass(frozen=True)
class Fitted:
    """A LoRA module and the model's own module that it adapts."""

    lora: LoraModule
    module: nn.Module


def fit(model: PreTrainedModel, name: str, adapter: Adapter) -> list[Fitted]:
    """The model's module for every module of `adapter`.

    Raises `UnsupportedError` for what is more than plain LoRA, `FormatError` for broken parts and values,
    `ConflictError` where the model has no such module or another shape.
    """
    _check_form(name, adapter)
    modules = dict(model.named_modules())
    _check_copies(name, adapter, modules)
    return list(_fitted(model, modules, name, adapter))


def _check_form(name: str, adapter: Adapter) -> None:
    if adapter.features:
        raise UnsupportedError(f"adapter {name}: {adapter.features[0]}", "merge it into the base and serve that")
    path = adapter.file.path
    if adapter.foreign:
        raise FormatError(path, f"{adapter.foreign[0]!r} is no LoRA parameter", "K-KEY-1")
    if adapter.unpaired:
        raise FormatError(path, f"module {adapter.unpaired[0]!r} lacks its A or its B", "K-KEY-2")
    if not adapter.modules:
        raise FormatError(path, "holds no LoRA module", "F-EMP-1")


def _check_copies(name: str, adapter: Adapter, modules: dict[str, nn.Module]) -> None:
    """Saved copies of base weights are harmless while they are what the base has."""
    for weight, view in adapter.base_copies.items():
        own = getattr(modules.get(weight.removesuffix(".weight")), "weight", None)
        if own is None or tuple(own.shape) != view.shape:
            raise ConflictError(f"adapter {name} carries its own {weight}, which does not fit the base", OTHER_BASE)
        _check_type(adapter, view)
        if not _same(own, view):
            raise UnsupportedError(f"adapter {name}: its own, changed {weight}", "merge it into the base and serve that")


def _same(own: torch.Tensor, view: TensorView) -> bool:
    """Whether `view`, brought to the type of `own`, holds the same values; compared a block of rows at a time."""
    import torch

    blocks = ((start, min(start + BLOCK_ROWS, view.shape[0])) for start in range(0, view.shape[0], BLOCK_ROWS))
    return all(torch.equal(own[start:stop].cpu(), torch.tensor(view.rows(start, stop)).to(own.dtype)) for start, stop in blocks)


def _fitted(model: PreTrainedModel, modules: dict[str, nn.Module], name: str, adapter: Adapter) -> Iterator[Fitted]:
    tied = _tied(model)
    for lora in adapter.modules:
        module = modules.get(lora.name)
        if module is None:
            raise ConflictError(f"adapter {name} adapts {lora.name}, which the base does not have", OTHER_BASE)
        if id(module) in tied:
            raise UnsupportedError(
                f"adapter {name}: LoRA on {lora.name}, whose weight the base ties to another layer",
                "train without this target, or merge the adapter",
            )
        _check_shape(name, lora, module)
        _check_values(adapter, lora)
        yield Fitted(lora, module)


def _tied(model: PreTrainedModel) -> set[int]:
    """The input and output embeddings where they are one weight."""
    ends = [end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]
    return {id(end) for end in ends} if len(ends) == 2 and ends[0].weight is ends[1].weight else set()


def _check_shape(name: str, lora: LoraModule, module: nn.Module) -> None:
    inside, outside = _size(name, lora, module)
    if lora.a.shape[1] != inside or lora.b.shape[0] != outside:
        has = f"{lora.a.shape[1]} to {lora.b.shape[0]}"
        raise ConflictError(f"adapter {name} maps {has} at {lora.name}; the base maps {inside} to {outside}", OTHER_BASE)


def _size(name: str, lora: LoraModule, module: nn.Module) -> tuple[int, int]:
    """What goes in and comes out of `module`: features, or vocabulary and width."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Embedding) and lora.embedding:
        return module.num_embeddings, module.embedding_dim
    if isinstance(module, nn.Linear) and not lora.embedding:
        return module.in_features, module.out_features
    if isinstance(module, Conv1D) and not lora.embedding:
        return module.weight.shape[0], module.weight.shape[1]
    raise UnsupportedError(f"adapter {name}: LoRA on {lora.name}, a {type(module).__name__},")


def _check_values(adapter: Adapter, lora: LoraModule) -> None:
    """NaN and infinity are refused: they would poison whatever is computed together with them."""
    for view in (lora.a, lora.b):
        _check_type(adapter, view)
        if not np.isfinite(view.float32()).all():
            raise FormatError(adapter.file.path, f"{view.name} holds NaN or infinity", "Q-NAN-1")


def _check_type(adapter: Adapter, view: TensorView) -> None:
    if view.dtype not in FLOATS:
        raise UnsupportedError(f"{adapter.file.path}: {view.name} of type {view.dtype}", f"save it as {', '.join(FLOATS)}")
