"""A textbook training of a few steps, and a plain PEFT reading of what was saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.train.config import TrainConfig, check_config
from adreg.train.data.encode import IGNORED, Example
from adreg.train.model.load import Model, load_model, parameter_groups
from adreg.train.record.output import write_adapter

LENGTHS = (9, 14, 11)


def configured(**settings: Any) -> TrainConfig:
    train = {"precision": "fp32", "lr": 1e-2, **settings.pop("train", {})}
    return check_config({"train": train, **settings})


def rows(vocabulary: int = 1000) -> list[Example]:
    """Three rows of drawn tokens, their second halves learned."""
    import numpy as np

    drawn = np.random.default_rng(7)
    found = []
    for line, length in enumerate(LENGTHS, 1):
        ids = drawn.integers(10, vocabulary, length, dtype=np.int32)
        labels = np.where(np.arange(length) < length // 2, np.int32(IGNORED), ids)
        found.append(Example(Path("rows"), line, ids, labels))
    return found


def fit(model: Model, config: TrainConfig, steps: int = 8) -> list[float]:
    """The losses of `steps` steps, one row after another."""
    optimizer = torch.optim.AdamW(parameter_groups(model, config))
    model.train()
    losses = []
    for _ in range(steps):
        total = 0.0
        for row in rows():
            ids, labels = torch.from_numpy(row.ids).long()[None], torch.from_numpy(row.labels).long()[None]
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def logits(model: Any) -> torch.Tensor:
    """The logits at the real tokens of the first row, in float32."""
    ids = torch.from_numpy(rows()[1].ids).long()[None]
    model.eval()
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] :].float()


def trained(base: Path, config: TrainConfig, parent: Path | None = None) -> tuple[Model, list[float]]:
    model = load_model(base, config, rows(), parent)
    return model, fit(model, config)


def saved(model: Model, base: Path, folder: Path) -> Path:
    folder.mkdir()
    write_adapter(folder, model, "org/tiny", open_checkpoint(base).tokenizer)
    return folder


def plain(base: Path, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The adapter in `folder` on the base as it is, by PEFT alone."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), folder)


def set_config(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
