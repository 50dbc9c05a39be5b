"""Writes a merged checkpoint folder: weights in the base's types, one block at a time, and the files beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from adreg.export.card import merged_card
from adreg.export.gguf.types import encode
from adreg.export.pipeline import encoded
from adreg.export.plan import MergePlan
from adreg.export.shards import Shard, index_of
from adreg.export.targets import config_changes
from adreg.export.tensors import PlannedTensor
from adreg.formats.adapters.adapter import RECORD
from adreg.formats.bases.checkpoint import INDEX
from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec
from adreg.formats.streamed import StreamedFile
from adreg.progress import Progress, Task

CONFIG, CARD = "config.json", "README.md"
CARRIED = (CONFIG, "generation_config.json", "LICENSE", "LICENSE.txt", "NOTICE")


def write_checkpoint(plan: MergePlan, folder: Path, progress: Progress) -> dict[str, str]:
    """Write the checkpoint that `plan` describes into the empty `folder`; each value is rounded once. Returns the SHA-256
    in hex of each weights file by its name."""
    _write_beside(plan, folder)
    with progress.task("merge", plan.nbytes, "B") as task:
        return {shard.name: _write_shard(plan, shard, folder / shard.name, task) for shard in plan.shards}


def _write_beside(plan: MergePlan, folder: Path) -> None:
    base = plan.request.base
    for file in [*(base.folder / name for name in CARRIED), *base.tokenizer.present()]:
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    changes = config_changes(base, {tensor.name: tensor.output.folded for tensor in plan.tensors if tensor.output.folded})
    texts = {
        CONFIG: json.dumps(base.config | changes, ensure_ascii=False, indent=2) + "\n" if changes else None,
        INDEX: index_of(base, plan.shards),
        "chat_template.jinja": plan.chat_template,
        RECORD: json.dumps(plan.record(), ensure_ascii=False, indent=2) + "\n",
        CARD: merged_card(plan),
    }
    for name, text in texts.items():
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")


def _write_shard(plan: MergePlan, shard: Shard, path: Path, task: Task) -> str:
    specs = [TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in shard.tensors]
    with StreamedFile(path) as file:
        writer = SafetensorsWriter(file, specs, shard.metadata)
        for tensor, data in encoded(shard.tensors, _encode, plan.adapter_files):
            writer.write(data)
            task.advance(len(data), tensor.name)
        writer.finish()
    return file.sha256


def _encode(tensor: PlannedTensor, start: int, stop: int) -> memoryview:
    stored = tensor.stored(start, stop)
    return encode(tensor.output.block(start, stop), tensor.dtype, tensor.name) if stored is None else stored
