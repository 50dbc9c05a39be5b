"""What of a merge is written where and in which type, for each target. Reads headers, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from adreg.errors import UsageError
from adreg.export.fold.folded import Folded
from adreg.export.gguf.adapter import plan_adapter
from adreg.export.gguf.architectures import architecture_of
from adreg.export.gguf.metadata import file_name
from adreg.export.gguf.mixture import traits_of
from adreg.export.gguf.quantise import require
from adreg.export.gguf.types import QUANTS, in_types
from adreg.export.request import MergeRequest
from adreg.export.tensors import OutputTensor, PlannedTensor
from adreg.formats.dtypes import BITS

LORA_QUANTS = ("f32", "f16", "bf16")


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
