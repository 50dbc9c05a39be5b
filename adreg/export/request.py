"""What a caller of a merge wants. Plans nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from adreg.errors import ConflictError
from adreg.export.changes.source import Source
from adreg.export.combine.settings import Combination
from adreg.export.targets import SUM
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.text.tokenizer import TokenizerFiles

Target = Literal["safetensors", "gguf", "gguf-lora"]
Precision = Literal["faithful", "compat"]


@dataclass(frozen=True)
class MergeRequest:
    """What the caller wants.

    `output` is a folder, or for GGUF also a file that ends in .gguf. `provenance` is written into the artifact as
    it is. `chat_template` overrides the one the adapters carry, which overrides the base's. `precision` is about
    GGUF: `faithful` rounds once, from float32; `compat` rounds to the base's type first, as merging with PEFT and
    converting does. `max_shard_size` is about safetensors, in bytes: without it the base's own files are kept.
    """

    base: Checkpoint
    sources: tuple[Source, ...]
    target: Target
    output: Path
    quant: str | None = None
    precision: Precision = "faithful"
    max_shard_size: int | None = None
    combination: Combination = SUM
    verify: bool = False
    name: str = ""
    base_name: str = ""
    chat_template: str | None = None
    system: str | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)


def chosen_template(base: Checkpoint, sources: tuple[Source, ...], override: str | None = None) -> str | None:
    """The chat template of the artifact: `override`, else the one beside the adapters, else the base's, else None."""
    if override is not None:
        return override
    carried = {TokenizerFiles(source.adapter.config.path.parent).chat_template: source.label for source in sources}
    carried.pop(None, None)
    if len(carried) > 1:
        raise ConflictError(f"{' and '.join(carried.values())} carry different chat templates", "give the one to use")
    return next(iter(carried), None) or base.tokenizer.chat_template
