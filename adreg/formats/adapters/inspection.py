"""An adapter as it lies there, sound or not: every view that its files allow, and everything that breaks a format.

The audit's way in. `open_adapter` refuses at the first fault; this one lists them and goes on with what could be read.
Headers and small JSON files only; no tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adreg.errors import FormatError, NotFoundError, PickleRefused, UnsupportedError
from adreg.formats.adapters.adapter import CONFIG, PICKLE, WEIGHTS, Adapter, assemble_adapter
from adreg.formats.adapters.config import ConfigSurvey, survey_adapter_config
from adreg.formats.adapters.family import Family, recognise
from adreg.formats.adapters.familykeys import Kind
from adreg.formats.adapters.listing import Entry, list_files, list_folder
from adreg.formats.adapters.spectra import Spectrum, spectra_of
from adreg.formats.safetensors import SafetensorsFile, Survey, survey_safetensors
from adreg.formats.strictjson import JsonObject

TEXT_LIMIT = 1_000_000


@dataclass(frozen=True)
class Inspection:
    """`files` by name, the `listing` of all that lies there, and the two surveys of configuration and weights."""

    files: Mapping[str, Path]
    listing: tuple[Entry, ...]
    config: ConfigSurvey
    weights: Survey
    missing: tuple[FormatError, ...]

    @property
    def raw(self) -> JsonObject:
        """adapter_config.json as it is written; empty where it cannot be read."""
        return self.config.raw

    @property
    def file(self) -> SafetensorsFile | None:
        """Names and shapes of the tensors; their bytes mean something only where `weights_sound`."""
        return self.weights.file

    @property
    def weights_sound(self) -> bool:
        return self.weights.file is not None and not self.weights.problems

    @property
    def problems(self) -> tuple[FormatError, ...]:
        """Everything that breaks a format, each with the rule that forbids it."""
        return self.missing + self.config.problems + self.weights.problems

    @cached_property
    def family(self) -> Family:
        return recognise(self.raw, self.file or {})

    @cached_property
    def adapter(self) -> Adapter | None:
        """The plain LoRA view that merge and serve use; None where `open_adapter` would refuse the files."""
        if self.config.config is None or not self.weights_sound or self.weights.file is None:
            return None
        return assemble_adapter(self.config.config, self.weights.file)

    @cached_property
    def spectra(self) -> tuple[Spectrum, ...]:
        """The singular values of every finite update of the plain LoRA view; reads its tensors."""
        return spectra_of(self.adapter.modules) if self.adapter else ()

    def sound_file(self) -> SafetensorsFile:
        """The weights of an adapter of any known type. Raises what is first wrong with it: `FormatError`, or
        `UnsupportedError` for a type that PEFT has under another name or not at all."""
        if self.problems or self.file is None:
            raise self.problems[0]
        declared = self.raw.get("peft_type")
        if not isinstance(declared, str) or self.family.kind is Kind.UNKNOWN:
            raise UnsupportedError(f"adapter type {str(declared)[:60]!r}", "adreg knows the types that PEFT 0.21 writes")
        return self.file

    def name_of(self, path: Path) -> str:
        """The name under which `path` belongs to the adapter: blobs of a store have other names."""
        return next((name for name, file in self.files.items() if file == path), path.name)

    def read(self, name: str, limit: int = TEXT_LIMIT) -> bytes | None:
        """The first `limit` bytes of the file `name`, or None where there is none."""
        if name not in self.files:
            return None
        with self.files[name].open("rb") as file:
            return file.read(limit)


def inspect_folder(folder: Path) -> Inspection:
    """Look at the adapter in `folder`. Raises `NotFoundError` where there is no folder, and else nothing."""
    if not folder.is_dir():
        raise NotFoundError("adapter folder", str(folder))
    listing = list_folder(folder)
    files = {entry.name: folder / entry.name for entry in listing if (folder / entry.name).is_file()}
    return _inspect(files, listing, folder)


def inspect_files(files: Mapping[str, Path]) -> Inspection:
    """Look at the adapter made of `files`, wherever they lie."""
    return _inspect(files, list_files(files), next(iter(files.values())).parent)


def _inspect(files: Mapping[str, Path], listing: tuple[Entry, ...], folder: Path) -> Inspection:
    return Inspection(
        files=files,
        listing=listing,
        config=survey_adapter_config(files[CONFIG]) if CONFIG in files else ConfigSurvey({}, None, ()),
        weights=survey_safetensors(files[WEIGHTS]) if WEIGHTS in files else Survey(None, ()),
        missing=tuple(_missing(files, folder)),
    )


def _missing(files: Mapping[str, Path], folder: Path) -> list[FormatError]:
    found: list[FormatError] = []
    if CONFIG not in files:
        found.append(FormatError(folder, f"has no {CONFIG}: not a PEFT adapter folder", "F-DIR-1"))
    if WEIGHTS not in files:
        refused = PickleRefused(files[PICKLE]) if PICKLE in files else FormatError(folder, f"has no {WEIGHTS}", "F-DIR-1")
        found.append(refused)
    return found
