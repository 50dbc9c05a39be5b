"""A merge as a plan: what is folded, what comes out in which type and size, and where. Reads headers, writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from adreg import __version__
from adreg.errors import ConflictError, UsageError
from adreg.export.combine.settings import Combination
from adreg.export.fold.folded import Folded
from adreg.export.gguf.adapter import plan_adapter
from adreg.export.gguf.architectures import architecture_of
from adreg.export.gguf.metadata import file_name
from adreg.export.gguf.mixture import traits_of
from adreg.export.gguf.quantise import require
from adreg.export.gguf.types import QUANTS, in_types
from adreg.export.pipeline import memory_needed
from adreg.export.qlora import QuantisedTraining, quantised_trainings
from adreg.export.shards import Shard, shards_of
from adreg.export.targets import SUM, Source, assign
from adreg.export.tensors import OutputTensor, PlannedTensor
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.dtypes import BITS
from adreg.formats.safetensors import SafetensorsFile
from adreg.formats.text.tokenizer import TokenizerFiles

Target = Literal["safetensors", "gguf", "gguf-lora"]
Precision = Literal["faithful", "compat"]
METADATA_BYTES = 64 << 20
LORA_QUANTS = ("f32", "f16", "bf16")


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


def chosen_template(base: Checkpoint, sources: tuple[Source, ...], override: str | None = None) -> str | None:
    """The chat template of the artifact: `override`, else the one beside the adapters, else the base's, else None."""
    if override is not None:
        return override
    carried = {TokenizerFiles(source.adapter.config.path.parent).chat_template: source.label for source in sources}
    carried.pop(None, None)
    if len(carried) > 1:
        raise ConflictError(f"{' and '.join(carried.values())} carry different chat templates", "give the one to use")
    return next(iter(carried), None) or base.tokenizer.chat_template


class Layout(NamedTuple):
    """What is written where: `alpha` is that of a GGUF adapter."""

    tensors: tuple[PlannedTensor, ...]
    path: Path
    alpha: float | None = None


def _safetensors(request: MergeRequest, folds: Mapping[str, Folded], _name: str) -> Layout:
    if request.quant is not None:
        raise UsageError("a safetensors checkpoint keeps the types of its base", "leave out --quant, or use --to gguf")
    outputs = (OutputTensor(name, fold.shape, fold) for name, fold in folds.items())
    tensors = (PlannedTensor(out, folds[out.name].dtype, out.count * BITS[folds[out.name].dtype] // 8) for out in outputs)
    return Layout(tuple(tensors), request.output)


def _gguf(request: MergeRequest, folds: Mapping[str, Folded], name: str) -> Layout:
    architecture, quant = architecture_of(request.base), _quant(request, QUANTS, "f16")
    tensors = in_types(architecture.tensors(request.base, folds), quant, traits_of(request.base, architecture))
    require({tensor.dtype for tensor in tensors})
    return Layout(tensors, _gguf_path(request, file_name(name, tensors, quant)))


def _gguf_lora(request: MergeRequest, folds: Mapping[str, Folded], name: str) -> Layout:
    architecture, quant = architecture_of(request.base), _quant(request, LORA_QUANTS, "f32")
    adapter = plan_adapter(architecture.tensors(request.base, folds), folds)
    tensors = in_types(adapter.tensors, quant, traits_of(request.base, architecture))
    return Layout(tensors, _gguf_path(request, file_name(name, tensors, quant, is_adapter=True)), adapter.alpha)


LAYOUTS = {"safetensors": _safetensors, "gguf": _gguf, "gguf-lora": _gguf_lora}


def _quant(request: MergeRequest, known: Sequence[str], default: str) -> str:
    quant = request.quant or default
    if quant not in known:
        raise UsageError(f"{quant!r} is no type that adreg writes as {request.target}", f"choose one of {', '.join(known)}")
    return quant


def _gguf_path(request: MergeRequest, usual: str) -> Path:
    return request.output if request.output.suffix == ".gguf" else request.output / usual


def _told(source: Source) -> list[tuple[str, str]]:
    return [("label", source.label), ("weight", repr(float(source.weight)))]


def _check_free(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConflictError(f"{path} already exists", "choose another place, or remove it first")
