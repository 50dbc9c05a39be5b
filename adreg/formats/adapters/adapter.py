"""A PEFT LoRA adapter on disk: its configuration and its modules, each with A, B, rank and scaling.

Nothing is judged here beyond form: tensors that are no adapter parameters are listed in `foreign`, modules
without their other half in `unpaired`, and the audit decides.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adreg.errors import FormatError, NotFoundError, PickleRefused
from adreg.formats.adapters.config import AdapterConfig, read_adapter_config
from adreg.formats.adapters.keys import Key, parse_key
from adreg.formats.safetensors import SafetensorsFile, TensorView, open_safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
RECORD = "adreg.json"


@dataclass(frozen=True)
class LoraModule:
    """One adapted module. For linear ones A is (rank, in) and B (out, rank), also on Conv1D;
    for embeddings A is (rank, vocabulary) and B (width, rank)."""

    name: str
    embedding: bool
    a: TensorView
    b: TensorView
    scaling: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def weight(self) -> str:
        """Name of the base tensor that the module adapts."""
        return f"{self.name}.weight"


@dataclass(frozen=True)
class Adapter:
    """An opened adapter. `features` and `foreign` say what in it is more than plain LoRA."""

    config: AdapterConfig
    file: SafetensorsFile
    modules: tuple[LoraModule, ...]
    base_copies: dict[str, TensorView]
    unpaired: tuple[str, ...]
    foreign: tuple[str, ...]
    extras: tuple[Key, ...]

    @cached_property
    def by_name(self) -> dict[str, LoraModule]:
        return {module.name: module for module in self.modules}

    @property
    def parameters(self) -> int:
        return sum(module.a.count + module.b.count for module in self.modules)

    @property
    def ranks(self) -> list[int]:
        return sorted({module.rank for module in self.modules})

    @property
    def features(self) -> tuple[str, ...]:
        """What the adapter does beyond plain LoRA, from its configuration and its tensors."""
        return self.config.features + tuple(sorted({f"{key.part} tensors" for key in self.extras}))


def open_adapter(folder: Path) -> Adapter:
    """Open the adapter in `folder`; headers and configuration only. Raises `NotFoundError` or `FormatError`."""
    if not folder.is_dir():
        raise NotFoundError("adapter folder", str(folder))
    if not (folder / CONFIG).is_file():
        raise FormatError(folder, f"has no {CONFIG}: not a PEFT adapter folder", "F-DIR-1")
    if not (folder / WEIGHTS).is_file():
        if (folder / PICKLE).exists():
            raise PickleRefused(folder / PICKLE)
        raise FormatError(folder, f"has no {WEIGHTS}", "F-DIR-1")
    return load_adapter(folder / CONFIG, folder / WEIGHTS)


def load_adapter(config_path: Path, weights_path: Path) -> Adapter:
    """The adapter made of these two files, wherever they lie."""
    return assemble_adapter(read_adapter_config(config_path), open_safetensors(weights_path))


def assemble_adapter(config: AdapterConfig, file: SafetensorsFile) -> Adapter:
    """The adapter that a sound configuration and a sound file make."""
    keys = {raw: parse_key(raw) for raw in file}
    by_module: dict[str, dict[str, TensorView]] = defaultdict(dict)
    for raw, key in keys.items():
        if key:
            by_module[key.module][key.part] = file[raw]
    modules, unpaired = [], []
    for name, parts in sorted(by_module.items()):
        module = _module(config, name, parts)
        if module:
            modules.append(module)
        elif set(parts) & {"A", "B", "embedding_A", "embedding_B"}:
            unpaired.append(name)
    extras = tuple(key for key in keys.values() if key and key.part in ("lora_bias", "magnitude", "token_delta"))
    copies = {f"{key.module}.weight": file[raw] for raw, key in keys.items() if key and key.part == "base_copy"}
    foreign = tuple(raw for raw, key in keys.items() if key is None)
    return Adapter(config, file, tuple(modules), copies, tuple(unpaired), foreign, extras)


def _module(config: AdapterConfig, name: str, parts: dict[str, TensorView]) -> LoraModule | None:
    embedding = "embedding_A" in parts
    a, b = parts.get("embedding_A" if embedding else "A"), parts.get("embedding_B" if embedding else "B")
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        return None
    return LoraModule(name, embedding, a, b, config.scaling_of(name))
