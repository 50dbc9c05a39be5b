"""Mutations: what is done to a clean adapter so that one rule must fire. Each letter of the catalogue has its module."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adreg.audit.run import Speed
from adreg.audit.subject import Subject
from tests.audit.clean import Clean

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
Array = npt.NDArray[Any]


def everywhere(_: Clean) -> bool:
    return True


def plain(clean: Clean) -> bool:
    """Whether it is a LoRA that adreg itself takes."""
    return clean.target == "adreg"


def lora(clean: Clean) -> bool:
    return clean.recipe.family == "LoraConfig"


def nothing(_: Path) -> None:
    pass


def unaltered(subject: Subject) -> Subject:
    return subject


@dataclass(frozen=True)
class Mutation:
    """`apply` changes the files of a copy, `alter` what is known around them; then `rule` must fire, and nothing else
    but `consequences` may that did not fire before. `applies_to` says on which clean adapters it makes sense."""

    rule: str
    apply: Callable[[Path], None] = nothing
    consequences: frozenset[str] = frozenset()
    applies_to: Callable[[Clean], bool] = everywhere
    alter: Callable[[Subject], Subject] = unaltered
    label: str = ""
    speed: Speed = Speed.DEEP


def configure(**changes: Any) -> Callable[[Path], None]:
    """Set fields of adapter_config.json."""

    def apply(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return apply


def tensors(change: Callable[[dict[str, Array]], None]) -> Callable[[Path], None]:
    """Change the weights file's tensors. Those in bf16 are shown as float32, and all float32 of such a file become bf16."""

    def apply(folder: Path) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        path = folder / WEIGHTS
        stored = load_file(path)
        brief = any(value.dtype is torch.bfloat16 for value in stored.values())
        loaded = {name: (value.float() if brief else value).numpy() for name, value in stored.items()}
        change(loaded)
        kept = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in loaded.items()}
        path.unlink()
        save_file(
            {name: value.bfloat16() if brief and value.dtype is torch.float32 else value for name, value in kept.items()},
            path,
            {"format": "pt"},
        )

    return apply


def header(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Change the weights file's header; the bytes of the tensors stay."""

    def apply(folder: Path) -> None:
        found, payload = split(folder)
        change(found)
        join(folder, json.dumps(found).encode(), payload)

    return apply


def split(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the bytes behind it of the weights file."""
    raw = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(folder: Path, text: bytes, payload: bytes) -> None:
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + payload)
