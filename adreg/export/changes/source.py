"""An adapter as a part of a merge: how strongly, under which name; and its modules with the weights they adapt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from adreg.errors import FormatError, UnsupportedError
from adreg.export.changes.weights import TABLES, Weights
from adreg.formats.adapters.adapter import Adapter, LoraModule
from adreg.formats.adapters.family import Family, Parts, recognise
from adreg.formats.adapters.others import OtherAdapter
from adreg.formats.adapters.updates import fit_of
from adreg.formats.canonical import canonical_name
from adreg.formats.dtypes import FLOATS
from adreg.formats.safetensors import TensorView


@dataclass(frozen=True)
class Source:
    """An adapter that takes part in a merge, how strongly, and what it is called in messages and records."""

    adapter: Adapter | OtherAdapter
    weight: float = 1.0
    label: str = "adapter"

    @cached_property
    def family(self) -> Family:
        return recognise(self.adapter.config.raw, self.adapter.file)

    @cached_property
    def loras(self) -> dict[str, LoraModule]:
        """The LoRA modules by name."""
        return {module.name: module for module in self.adapter.modules}

    def targets_parameter(self, name: str) -> bool:
        """Whether the configuration names the parameter `name`, or the end of its name, in `target_parameters`."""
        named = self.adapter.config.raw.get("target_parameters")
        return isinstance(named, list) and any(f".{name}".endswith(f".{target}") for target in named)

    def refusal(self, why: str, rule: str) -> FormatError:
        """The adapter's file breaks `rule`."""
        return FormatError(self.adapter.file.path, why, rule)


@dataclass(frozen=True)
class AdaptedModule:
    """A module of an adapter by its name there, with its tensors by part and the weights of the base."""

    source: Source
    name: str
    parts: Parts
    weights: Weights

    def tensor(self, kind: str = "weight") -> str:
        """The base's name for the module's weight (or bias). Raises `FormatError` where the base has none."""
        parameter = f"{self.name}.{kind}"
        found = self.weights.find(parameter)
        if found is None and kind != "weight":
            raise self.source.refusal(f"changes {parameter!r}, which the base does not have", "B-SHP-1")
        if found is None:
            raise self.source.refusal(f"adapts {self.name!r}, which the base does not have", "B-SHP-1")
        return self.checked(found)

    def checked(self, name: str) -> str:
        """`name`, if its tensor and the module's are of types that can be folded."""
        odd = {self.weights.view(name).dtype, *(view.dtype for view in self.parts.values())} - set(FLOATS)
        if odd:
            raise UnsupportedError(f"merging {self.name!r} with tensors of type {', '.join(sorted(odd))}")
        return name

    def linear(self) -> tuple[str, bool]:
        """The base's name of a linear module's weight, and whether it is stored as (in, out). Raises `FormatError`
        for an embedding table, and where the update is of another shape."""
        name = self.tensor()
        if canonical_name(name) in TABLES:
            raise self.source.refusal(f"adapts {self.name!r} as if it were no embedding", "B-SHP-2")
        transposed = self.weights.is_transposed(name)
        self.fit(name, transposed)
        return name, transposed

    def fit(self, name: str, transposed: bool) -> None:
        """Raise `FormatError` unless what the module's tensors update is of the base's shape."""
        shape, found = self.weights.view(name).shape, fit_of(self.parts, self.source.family.kind)
        rows, columns = shape if len(shape) == 2 else (0, 0)
        rows, columns = (columns, rows) if transposed else (rows, columns)
        if found is None or not found.takes(rows, columns):
            stored = found and (f"({found.columns}, {found.rows})" if transposed else str(found))
            raise self.source.refusal(f"updates {self.name!r} with shape {stored}; the base has {shape}", "B-SHP-2")

    def shaped(self, part: str, *shape: int) -> TensorView:
        """The tensor `part`. Raises `FormatError` unless it is of that shape."""
        view = self.parts[part]
        if view.shape != shape:
            raise self.source.refusal(f"tensor {view.name!r} has shape {view.shape}, not {shape}", "B-SHP-2")
        return view
