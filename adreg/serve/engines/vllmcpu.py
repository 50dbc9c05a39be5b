"""vLLM on a CPU gives rows of the base the last slot's adapter where they share a batch with adapters: how that is kept from
happening. The base is asked for as an adapter of zeros, so no row is without one. Writes that adapter, starts nothing.

Source: vllm#48421 and #49656, open at 0.32: vllm/lora/ops/torch_ops/lora_ops.py takes the index -1, "no adapter", for a slot.
"""

from __future__ import annotations

import json
from pathlib import Path

from adreg.audit.basecard import BaseCard
from adreg.audit.vllmmodel import EXPERTS
from adreg.audit.weights import ending, is_table
from adreg.errors import UnsupportedError
from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.formats.atomic import atomic_folder
from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec
from adreg.serve.plugin.folders import FOLDER

NAME = "{}@base"
"""What the base is called: no reference has this form, so no client can mean it."""


def zero_adapter(home: Path, base: BaseCard) -> Path:
    """A folder with a LoRA of rank 1 on one module of `base` that adds nothing, made once.

    Raises `UnsupportedError` for a base without a plain weight to put it on, as most quantised ones are.
    """
    folder = home / FOLDER / f"zero-{base.digest.removeprefix('b3:')}"
    if not folder.is_dir():
        module, (rows, columns) = _place(base)
        with atomic_folder(folder) as partial:
            _write(partial, module, rows, columns)
    return folder


def _place(base: BaseCard) -> tuple[str, tuple[int, ...]]:
    for name, shape in sorted(base.shapes.items()):
        module = name.removesuffix(".weight")
        if name.endswith("_proj.weight") and len(shape) == 2 and EXPERTS not in name and not is_table(module):
            return module, shape
    raise UnsupportedError(
        f"{base.name}, whose layers are not plain weights, in a vLLM on a CPU", "adreg serve --engine llama.cpp"
    )


def _write(folder: Path, module: str, rows: int, columns: int) -> None:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1, "bias": "none"}
    (folder / CONFIG).write_text(json.dumps({**config, "target_modules": [ending(module)]}))
    halves = {"A": (1, columns), "B": (rows, 1)}
    specs = [TensorSpec(f"base_model.model.{module}.lora_{half}.weight", "F32", shape) for half, shape in halves.items()]
    with (folder / WEIGHTS).open("xb") as file:
        writer = SafetensorsWriter(file, specs)
        for spec in specs:
            writer.write(bytes(spec.nbytes))
        writer.finish()
