"""Batches through a model: losses of the learned tokens, or logits at them. Knows batches and models, not rows."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adreg.train.model import attention
from adreg.train.model.grid import Grid
from adreg.train.model.head import loss_head
from adreg.train.model.load import Model
from adreg.train.steps.batch import Batch


def logits_at(model: Model, batch: Batch) -> Tensor:
    """Logits (N, vocabulary) at the positions that `keep` marks, in the model's type."""
    return _last(model(**_inputs(model, batch)).logits, batch)


def token_losses(model: Model, batch: Batch) -> Tensor:
    """The cross-entropy of each learned token of `batch`, (N,) in float32, in the order of `targets`."""
    head = loss_head(model)
    if head is None:
        return F.cross_entropy(logits_at(model, batch).float(), batch["targets"], reduction="none")
    with head.asked(batch["targets"]):
        return _last(model(**_inputs(model, batch)).logits, batch)[:, 0]


def summed_loss(model: Model, batch: Batch) -> Tensor:
    """The cross-entropy in float32, summed over the learned tokens of `batch`."""
    return token_losses(model, batch).sum()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """`batch` with its tensors on `device`."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def accepts(model: Model, *names: str) -> bool:
    """Whether the forward pass of the model beneath the adapter takes arguments of these names."""
    kind: type = type(model.get_base_model())
    return _parameters(kind) >= set(names)


def selects(model: Model) -> bool:
    """Whether the model can be asked for the logits of chosen positions, in batches of one row or more."""
    config = getattr(model, "active_peft_config", None)
    return accepts(model, "logits_to_keep") and not getattr(config, "is_prompt_learning", False)


@lru_cache
def _parameters(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]


def _inputs(model: Model, batch: Batch) -> dict[str, Any]:
    """What the model is called with. Without a mask in `batch`, its rows lie end to end, told apart by their positions."""
    given: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
    if model.config._attn_implementation == attention.NAME:
        given["row_grid"] = Grid(batch["slots"], batch["rows"], batch["width"], batch["prefix"])
    if selects(model):
        given["logits_to_keep"] = batch["keep"]
    return {**given, "use_cache": False}


def _last(logits: Tensor, batch: Batch) -> Tensor:
    """(N, ...) at the positions that `keep` marks, if the model did not choose them itself; virtual tokens come first."""
    keep = batch["keep"]
    if logits.ndim == 3 and logits.shape[0] == keep.shape[0] and logits.shape[1] >= keep.shape[1]:
        return logits[:, -keep.shape[1] :][keep]
    return logits.reshape(-1, logits.shape[-1])
