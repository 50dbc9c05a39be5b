"""Unpacks a GGUF model of the llama family into an ordinary bf16 checkpoint folder: weights, config, tokenizer.

Quantised values are expanded exactly (gguf's own dequantisers) and rounded once to bfloat16. Needs no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adreg.errors import UnsupportedError
from adreg.formats.atomic import atomic_folder
from adreg.formats.dtypes import from_float32
from adreg.formats.gguf.base import GgufBase, open_gguf_base
from adreg.formats.gguf.tokenizer import tokenizer_config, tokenizer_definition
from adreg.formats.quantised.packed import row_blocks
from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec
from adreg.progress import SILENT, Progress


def unpack_gguf(source: Path, folder: Path, progress: Progress = SILENT) -> None:
    """Write the model in `source` as a checkpoint to `folder`, which appears whole or not at all."""
    model = open_gguf_base(source)
    if model.model_type != "llama":
        raise UnsupportedError(f"unpacking GGUF architecture {model.model_type!r}", "use a safetensors checkpoint")
    _check_names(model)
    with atomic_folder(folder) as partial:
        _write_json(partial / "config.json", model.config)
        _write_json(partial / "generation_config.json", _generation_config(model.config))
        _write_json(partial / "tokenizer.json", tokenizer_definition(model.fields))
        _write_json(partial / "tokenizer_config.json", tokenizer_config(model.fields))
        if template := model.tokenizer.chat_template:
            (partial / "chat_template.jinja").write_text(template, encoding="utf-8")
        _write_weights(model, partial / "model.safetensors", progress)


def _check_names(model: GgufBase) -> None:
    for name, tensor in model.packed.items():
        if name == tensor.parts[0]:
            raise UnsupportedError(f"GGUF tensor {name!r}", "use a safetensors checkpoint")


def _write_weights(model: GgufBase, path: Path, progress: Progress) -> None:
    tensors = model.packed
    specs = [TensorSpec(name, "BF16", tensors[name].shape) for name in sorted(tensors)]
    with path.open("wb") as file, progress.task("unpack", sum(spec.nbytes for spec in specs), "B") as task:
        writer = SafetensorsWriter(file, specs, {"format": "pt"})
        for spec in specs:
            for block in row_blocks(tensors[spec.name]):
                writer.write(from_float32(block, "BF16"))
            model[tensors[spec.name].parts[0]].release()
            task.advance(spec.nbytes, spec.name)
        writer.finish()


def _generation_config(config: dict[str, Any]) -> dict[str, Any]:
    return {role: config[role] for role in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
