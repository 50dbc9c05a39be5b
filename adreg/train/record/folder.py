"""What lies beside an adapter's weights: the record of its run, the loss curve, the model card. Knows no training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adreg.formats.adapters.adapter import RECORD
from adreg.formats.pictures.svg import svg
from adreg.train.record.curves import curve_of
from adreg.train.record.lossplot import loss_picture
from adreg.train.record.opening import published
from adreg.train.record.record import RunRecord

LISTS = ("losses", "evaluations", "samples")
METHODS = {"lora": "LoRA", "ia3": "IA³", "loha": "LoHa", "lokr": "LoKr", "prefix": "prefix", "p-tuning": "P-tuning",
           "prompt": "prompt"}  # fmt: skip


def write_record(folder: Path, record: RunRecord, base_name: str) -> None:
    """`adreg.json`, `loss.svg` and the model card."""
    told = published(asdict(record))
    _write(folder / RECORD, record_text(told))
    _write(folder / "loss.svg", svg(loss_picture([curve_of(told, f"Run {record.id}")])))
    _write(folder / "README.md", model_card(record, base_name))


def record_text(record: Mapping[str, Any]) -> str:
    """`record` as JSON that a person can read: a line for each field that holds others, and one for each step."""
    return "{\n" + ",\n".join(_fields(record)) + "\n}\n"


def _fields(record: Mapping[str, Any]) -> Iterator[str]:
    for name, value in record.items():
        if name in LISTS and value:
            lines = ",\n".join(f"  {_json(entry)}" for entry in value)
            yield f" {_json(name)}: [\n{lines}\n ]"
        else:
            yield f" {_json(name)}: {_json(value)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def model_card(record: RunRecord, base_name: str) -> str:
    """README.md with the front matter that model hubs read."""
    method = METHODS.get(record.config.get("method", "lora"), "LoRA")
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {base_name}",
        "pipeline_tag: text-generation",
        f"tags: [{record.config.get('method', 'lora')}, adreg]",
        "---",
        "",
        f"# {method} adapter for {base_name}",
        "",
        _what(record),
        *_results(record),
        "",
        "![loss](loss.svg)",
        *_samples(record),
        "",
        f"The record of the run is in `{RECORD}`. Trained with adreg {record.versions['adreg']}.",
    ]
    return "\n".join(lines) + "\n"


def _what(record: RunRecord) -> str:
    loop = record.config["train"]
    rank = f"Rank {record.config['lora']['r']}, " if record.config.get("method", "lora") == "lora" else ""
    text = (
        f"{rank}{record.trainable:,} parameters, {record.steps} steps on {record.rows} rows "
        f"({record.trained_tokens:,} learned tokens), learning rate {loop['lr']:g}, seed {record.seed}."
    )
    return text if not record.parent else f"{text} Continued from {record.parent.get('reference')}."


def _results(record: RunRecord) -> list[str]:
    held = record.eval
    if held.base is None or held.adapter is None:
        return []
    told = f"{held.base:.3f} on the base, {held.adapter:.3f} with the adapter"
    if record.config.get("objective", "sft") == "sft" and max(held.base, held.adapter) < math.log(1e6):
        told += f" (perplexity {math.exp(held.base):.4g} and {math.exp(held.adapter):.4g})"
    return ["", f"Held-out loss on {held.rows} rows: {told}."]


def _samples(record: RunRecord) -> list[str]:
    """A few answers, each as an indented block, so that nothing in them is markup."""
    shown = [sample for sample in record.samples if sample.after is not None][:3]
    lines = ["", "Answers, greedily:"] if shown else []
    for sample in shown:
        lines += ["", _block(sample.prompt), "", f"    → {_block(sample.after or '').lstrip()}"]
    return lines


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines() or [""])


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
