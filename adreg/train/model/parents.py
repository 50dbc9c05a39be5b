"""The adapter whose training is continued: what its folder must be, and which settings must agree with it. Knows files and
headers, no tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adreg.errors import FormatError, UnsupportedError, UsageError
from adreg.formats.adapters.adapter import WEIGHTS
from adreg.formats.adapters.family import MODIFIED_BASE
from adreg.formats.adapters.inspection import Inspection, inspect_folder
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.strictjson import JsonObject
from adreg.train.config import LoraSettings, PromptSettings, TrainConfig
from adreg.train.model.methods import differing

TYPES = {
    "lora": "LORA", "ia3": "IA3", "loha": "LOHA", "lokr": "LOKR",
    "prefix": "PREFIX_TUNING", "prompt": "PROMPT_TUNING", "p-tuning": "P_TUNING",
}  # fmt: skip
FIELDS = {
    "r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "targets": "target_modules", "exclude": "exclude_modules",
    "layers": "layers_to_transform", "rslora": "use_rslora", "dora": "use_dora", "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern", "modules_to_save": "modules_to_save",
}  # fmt: skip
"""The settings that a parent has decided, by the name of its own field. `lr_ratio` is nothing that it knows."""


def check_parent(folder: Path, base: Checkpoint, config: TrainConfig) -> None:
    """Raise `UsageError` for a setting that the adapter in `folder` decided otherwise, `UnsupportedError` or `FormatError`
    for one that cannot be continued on `base`."""
    found = inspect_folder(folder)
    found.sound_file()
    raw = found.raw
    kind, method = str(raw.get("peft_type")), config.method
    if kind != TYPES[method]:
        known = {name: method for method, name in TYPES.items()}
        hint = f"--set method={known[kind]}" if kind in known else ""
        raise UsageError(f"the parent in {folder} is of type {kind}, and the method is {method}", hint)
    init = str(raw.get("init_lora_weights")).lower()
    if init.startswith(MODIFIED_BASE):
        raise UnsupportedError(f"continuing an adapter that fits a base changed by {init}", "convert it with PEFT first")
    for name, asked, given in _disagreements(raw, config):
        raise UsageError(f"{name} is {asked!r}, and the parent was trained with {given!r}", f"remove {name}")
    _check_shapes(found, base)


def _disagreements(raw: JsonObject, config: TrainConfig) -> Iterator[tuple[str, Any, Any]]:
    for name, asked in differing(config.lora, LoraSettings()).items():
        field = "alpha" if name == "alpha" and "lora_alpha" not in raw else FIELDS.get(name)
        if field is not None and not _agree(asked, raw.get(field)):
            yield f"lora.{name}", asked, raw.get(field)
    tokens = raw.get("num_virtual_tokens")
    if tokens is not None and config.prompt.tokens not in (PromptSettings().tokens, tokens):
        yield "prompt.tokens", config.prompt.tokens, tokens
    if config.prompt.text is not None:
        yield "prompt.text", config.prompt.text, "its own tokens"


def _agree(asked: Any, given: Any) -> bool:
    """Whether two values mean one thing; the order of names means nothing, and `auto` only PEFT could tell."""
    if isinstance(asked, list) and isinstance(given, list):
        return sorted(map(str, asked)) == sorted(map(str, given))
    return bool(asked == given) or (not asked and not given)


def _check_shapes(found: Inspection, base: Checkpoint) -> None:
    """Every LoRA module must lie on a weight of the base with its sides."""
    shapes = {name.removesuffix(".weight"): shape for name, shape in base.shapes.items()}
    for module in found.adapter.modules if found.adapter else ():
        shape = shapes.get(module.name) or shapes.get(module.name.partition(".")[2])
        if shape is None and not module.name.endswith("lm_head"):
            raise FormatError(found.files[WEIGHTS], f"adapts {module.name}, which this base has not", "B-SHP-1")
        sides = (module.b.shape[0], module.a.shape[1])
        if shape is not None and not module.embedding and sides not in (shape, shape[::-1]):
            raise FormatError(
                found.files[WEIGHTS], f"adapts {module.name} as {sides}, and this base has it as {shape}", "B-SHP-1"
            )
