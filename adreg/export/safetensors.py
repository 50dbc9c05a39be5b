"""Writes a merged checkpoint folder: the base's own shards and types, one block at a time, and the files beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from adreg.export.plan import MergePlan
from adreg.export.tensors import PlannedTensor
from adreg.formats.adapters.adapter import RECORD
from adreg.formats.bases.checkpoint import INDEX
from adreg.formats.dtypes import from_float32
from adreg.formats.safetensors import SafetensorsFile
from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec
from adreg.progress import Progress, Task

CARRIED = ("config.json", "generation_config.json", INDEX, "LICENSE", "LICENSE.txt", "NOTICE")
CHUNK = 1 << 26


def write_checkpoint(plan: MergePlan, folder: Path, progress: Progress) -> None:
    """Write the checkpoint that `plan` describes into the empty `folder`; each value is rounded once."""
    base, tensors = plan.request.base, {tensor.name: tensor for tensor in plan.tensors}
    for file in [*(base.folder / name for name in CARRIED), *base.tokenizer.present()]:
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    if plan.chat_template is not None:
        (folder / "chat_template.jinja").write_text(plan.chat_template, encoding="utf-8")
    (folder / RECORD).write_text(json.dumps(plan.record(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    with progress.task("merge", plan.nbytes, "B") as task:
        for shard in base.shards:
            _write_shard(shard, tensors, folder / shard.path.name, task)


def _write_shard(shard: SafetensorsFile, tensors: Mapping[str, PlannedTensor], path: Path, task: Task) -> None:
    specs = [TensorSpec(name, view.dtype, view.shape) for name, view in shard.items()]
    with path.open("wb") as file:
        writer = SafetensorsWriter(file, specs, shard.metadata)
        for name in shard:
            _write_tensor(writer, tensors[name], task)
        writer.finish()


def _write_tensor(writer: SafetensorsWriter, tensor: PlannedTensor, task: Task) -> None:
    if tensor.folded is None:
        raise ValueError(f"{tensor.name} comes from no base tensor")
    view = tensor.folded.view
    if not tensor.adapted:
        for start in range(0, view.nbytes, CHUNK):
            writer.write(view.data[start : start + CHUNK])
        task.advance(view.nbytes, tensor.name)
        return
    for block in tensor.folded.blocks():
        data = from_float32(block, view.dtype)
        writer.write(data)
        task.advance(len(data), tensor.name)
