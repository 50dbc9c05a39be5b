"""A sound PEFT adapter of any family: LoRA as `Adapter`, every other as `OtherAdapter`. Reads headers, judges no use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adreg.errors import UnsupportedError
from adreg.formats.adapters.adapter import CONFIG, Adapter, LoraModule
from adreg.formats.adapters.familykeys import Kind
from adreg.formats.adapters.inspection import Inspection, inspect_folder
from adreg.formats.safetensors import SafetensorsFile
from adreg.formats.strictjson import JsonObject


@dataclass(frozen=True)
class OtherConfig:
    """An adapter_config.json that is not a LoRA's."""

    path: Path
    raw: JsonObject


@dataclass(frozen=True)
class OtherAdapter:
    """An adapter that is no LoRA; what its tensors are is for `recognise` to say."""

    config: OtherConfig
    file: SafetensorsFile
    modules: tuple[LoraModule, ...] = ()


def open_any_adapter(folder: Path) -> Adapter | OtherAdapter:
    """Open the adapter in `folder`, of whatever family. Raises `NotFoundError`, and as `adapter_of`."""
    return adapter_of(inspect_folder(folder))


def adapter_of(inspection: Inspection) -> Adapter | OtherAdapter:
    """The adapter that was inspected. Raises the first `FormatError` of an unsound one, and `UnsupportedError` for a
    family that adreg does not know."""
    if inspection.adapter is not None:
        return inspection.adapter
    if inspection.problems or inspection.file is None:
        raise inspection.problems[0]
    if inspection.family.kind is Kind.UNKNOWN:
        raise UnsupportedError(f"adapter type {str(inspection.raw.get('peft_type'))[:60]!r}")
    return OtherAdapter(OtherConfig(inspection.files[CONFIG], inspection.raw), inspection.file)
