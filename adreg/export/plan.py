"""A merge as a plan: what is folded, what comes out in which type and size, and where. Reads headers, writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from adreg import __version__
from adreg.errors import ConflictError, UsageError
from adreg.export.changes.source import Source
from adreg.export.fold.folded import Folded
from adreg.export.layout import LAYOUTS
from adreg.export.pipeline import memory_needed
from adreg.export.qlora import QuantisedTraining, quantised_trainings
from adreg.export.request import MergeRequest, chosen_template
from adreg.export.shards import Shard, shards_of
from adreg.export.targets import assign
from adreg.export.tensors import PlannedTensor
from adreg.formats.safetensors import SafetensorsFile

METADATA_BYTES = 64 << 20


@dataclass(frozen=True)
class MergePlan:
    """A merge that can be printed and carried out. `path` is the main output: a folder, or the GGUF file. `folds` are all
    tensors of the base as they become, `alpha` is that of a GGUF adapter."""

    request: MergeRequest
    path: Path
    name: str
    tensors: tuple[PlannedTensor, ...]
    chat_template: str | None
    folds: Mapping[str, Folded]
    quantised_trainings: tuple[QuantisedTraining, ...] = ()
    alpha: float | None = None

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The weights files of a checkpoint."""
        return shards_of(self.request.base, self.tensors, self.request.max_shard_size)

    @property
    def adapter_files(self) -> list[SafetensorsFile]:
        """The weights of the adapters."""
        return [source.adapter.file for source in self.request.sources]

    @property
    def disk_needed(self) -> int:
        """Bytes that must be free where the output goes."""
        return self.nbytes + METADATA_BYTES

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data that will be written."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def describe(self) -> dict[str, Any]:
        """The plan in plain values, for `--dry-run` and for records."""
        request = self.request
        return {
            "target": request.target,
            "output": str(self.path),
            "base": request.base_name or str(request.base.folder),
            "adapters": [
                {"label": source.label, "weight": source.weight, "modules": len(source.family.modules)}
                for source in request.sources
            ],
            "combination": request.combination.record() if len(request.sources) > 1 else None,
            "precision": request.precision if request.target == "gguf" else None,
            "tensors": len(self.tensors),
            "adapted": sum(tensor.adapted for tensor in self.tensors),
            "types": dict(Counter(tensor.dtype for tensor in self.tensors)),
            "bytes": self.nbytes,
            "disk_needed": self.disk_needed,
            "memory_needed": memory_needed(self.tensors),
            "files": [shard.name for shard in self.shards] if request.target == "safetensors" else [self.path.name],
            "quantised_trainings": [asdict(training) for training in self.quantised_trainings],
        }

    def record(self) -> dict[str, str]:
        """How the artifact was made, as it is written into it; the caller's provenance has the last word."""
        merges = {f"merge.{i}.{key}": value for i, source in enumerate(self.request.sources) for key, value in _told(source)}
        own = {"version": __version__, "merge.count": str(len(self.request.sources)), **merges}
        if len(self.request.sources) > 1:
            own |= {f"merge.{key}": value for key, value in self.request.combination.record().items()}
        if self.request.target == "gguf":
            own["merge.precision"] = self.request.precision
        return dict(sorted({**own, **self.request.provenance}.items()))


def plan_merge(request: MergeRequest) -> MergePlan:
    """Check everything that can be known without reading weights. Raises the typed errors of `assign`, `UsageError`
    for settings that cannot be meant, `ConflictError` when the output exists."""
    if not request.sources and request.target != "gguf":
        raise UsageError("there is nothing to merge", "name at least one adapter")
    folds = assign(request.base, request.sources, request.combination)
    name = request.name or "-".join([request.base.folder.name, *(source.label for source in request.sources)])
    template = chosen_template(request.base, request.sources, request.chat_template)
    layout = LAYOUTS[request.target](request, folds, name)
    for place in (request.output, layout.path, layout.path.with_suffix(".Modelfile")):
        _check_free(place)
    trainings = tuple(quantised_trainings(folds, request.sources))
    return MergePlan(request, layout.path, name, layout.tensors, template, folds, trainings, layout.alpha)


def _told(source: Source) -> list[tuple[str, str]]:
    return [("label", source.label), ("weight", repr(float(source.weight)))]


def _check_free(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConflictError(f"{path} already exists", "choose another place, or remove it first")
