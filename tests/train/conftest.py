"""Small conversations, and the settings of a run that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.train.config import TrainConfig, check_config
from adreg.train.data.prepare import Prepared, prepare

TOPICS = [
    "tea",
    "rain on the roof",
    "a bicycle with one flat tyre",
    "ink",
    "the moon",
    "old maps of the harbour",
    "bread",
    "fog",
]


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Eight conversations of unequal length."""
    rows = [
        chat(f"What about {topic}?", f"Aye, {topic}. " + "Mind the rocks. " * (i % 4 + 1)) for i, topic in enumerate(TOPICS)
    ]
    return write_rows(tmp_path / "chats.jsonl", rows)


def small_config(file: Path, **train: Any) -> TrainConfig:
    loop = {"lr": 5e-3, "schedule": "constant", "warmup": 0, "batch": 8, "micro_tokens": 200, "precision": "fp32", **train}
    return check_config({"data": {"train": [file], "eval": 0}, "train": loop, "eval": {"max_new_tokens": 1}})


def prepared(base: Path, config: TrainConfig) -> Prepared:
    return prepare(open_checkpoint(base), config.data, config.train.seed)
