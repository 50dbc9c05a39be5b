"""Rows of random tokens, and what a plain padded pass says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from adreg.train.config import TrainConfig, check_config
from adreg.train.data.encode import IGNORED, Example
from adreg.train.steps.batch import Batch, pad
from adreg.train.steps.forward import summed_loss


def example(length: int, seed: int, common: int = 0, vocabulary: int = 300) -> Example:
    """A row of `common` tokens that others have too and `length` of its own; its second half is learned."""
    own = np.random.default_rng(seed).integers(5, vocabulary, length)
    ids = np.concatenate([np.arange(5, 5 + common), own]).astype(np.int32)
    learned = np.arange(len(ids)) >= max(common + 3, len(ids) // 2) if common else np.arange(len(ids)) > 0
    return Example(Path("rows.jsonl"), seed, ids, np.where(learned, ids, IGNORED).astype(np.int32))


def settings(**lora: Any) -> TrainConfig:
    return check_config({"train": {"precision": "fp32"}, "lora": lora})


def stirred(model: Any, strength: float = 0.1) -> Any:
    """`model` with random numbers in all that is trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.normal_(0, strength, generator=generator)
    return model


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def padded_loss(model: Any, examples: list[Example]) -> torch.Tensor:
    """The loss that the model itself computes for padded rows with labels, summed over the learned tokens."""
    batch = pad(examples)
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for row, one in enumerate(examples):
        labels[row, : len(one.ids)] = torch.from_numpy(one.labels)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    loss: torch.Tensor = model(**inputs, labels=labels, use_cache=False).loss
    return loss * batch["targets"].numel()


def step(model: Any, batches: list[Batch]) -> torch.Tensor:
    return torch.stack([summed_loss(model, batch) for batch in batches]).sum()


def loss_and_gradients(model: Any, loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss as a number, and the gradients of all that has one: a vision tower's adapters have none."""
    parameters = trained(model)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return loss.item(), {name: one for name, one in zip(parameters, gradients, strict=True) if one is not None}


def assert_alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], share: float) -> None:
    """Each gradient differs from the expected by no more than `share` of its norm."""
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= share * gradient.norm(), name
