"""The folder of a trained adapter: PEFT files, chat template, run record, loss curve, model card. Knows no training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adreg.formats.adapters.adapter import CONFIG, RECORD
from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.train.plot import Point, loss_svg
from adreg.train.record import RunRecord


def write_adapter(folder: Path, model: Any, base_name: str, tokenizer: TokenizerFiles) -> None:
    """The adapter's PEFT files, naming the base by name and never by a path of this machine, and the chat template."""
    model.save_pretrained(folder, save_embedding_layers=False)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    if isinstance(config["target_modules"], list):
        config["target_modules"] = sorted(config["target_modules"])
    _write(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True))
    if tokenizer.chat_template is not None:
        _write(folder / "chat_template.jinja", tokenizer.chat_template)


def write_record(folder: Path, record: RunRecord, base_name: str) -> None:
    """`adreg.json`, `loss.svg` and the model card."""
    _write(folder / RECORD, json.dumps(asdict(record), indent=1, ensure_ascii=False))
    losses = [Point(step.step, step.loss) for step in record.losses]
    ends = [(0, record.eval.base), (record.steps, record.eval.adapter)]
    _write(folder / "loss.svg", loss_svg(f"Run {record.id}", losses, [Point(x, y) for x, y in ends if y is not None]))
    _write(folder / "README.md", model_card(record, base_name))


def model_card(record: RunRecord, base_name: str) -> str:
    """README.md with the front matter that model hubs read."""
    lora, loop = record.config["lora"], record.config["train"]
    held = record.eval
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {base_name}",
        "pipeline_tag: text-generation",
        "tags: [lora, adreg]",
        "---",
        "",
        f"# A LoRA adapter for {base_name}",
        "",
        f"Rank {lora['r']}, {record.trainable:,} parameters, {record.steps} steps on {record.rows} rows "
        f"({record.trained_tokens:,} learned tokens), learning rate {loop['lr']:g}, seed {record.seed}.",
    ]
    if held.base is not None and held.adapter is not None:
        lines += ["", f"Held-out loss on {held.rows} rows: {held.base:.3f} on the base, {held.adapter:.3f} with the adapter."]
    lines += [
        "",
        "![loss](loss.svg)",
        "",
        f"The record of the run is in `{RECORD}`. Trained with adreg {record.versions['adreg']}.",
    ]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
