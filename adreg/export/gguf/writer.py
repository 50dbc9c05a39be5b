"""Writes a planned GGUF file in one pass: fields first, then each tensor as a stream of merged and encoded blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adreg.export.gguf.adapter import write_adapter_fields
from adreg.export.gguf.architectures import architecture_of
from adreg.export.gguf.metadata import write_general, write_provenance
from adreg.export.gguf.stamp import reserve
from adreg.export.gguf.tokenizer import write_tokenizer
from adreg.export.gguf.types import FILE_TYPES, encode
from adreg.export.pipeline import encoded
from adreg.export.plan import MergePlan
from adreg.export.tensors import PlannedTensor
from adreg.formats.dtypes import Float32, from_float32, to_float32
from adreg.formats.streamed import StreamedFile
from adreg.progress import Progress

if TYPE_CHECKING:
    from gguf import GGUFWriter

ALIGNMENT = 32
EMBEDDINGS = "token_embd.weight"


def write_gguf(plan: MergePlan, path: Path, progress: Progress) -> str:
    """Write the file that `plan` describes to the new file `path`, and return its SHA-256 in hex. Memory: a few blocks
    of one tensor, whatever the model's size."""
    front = _front(plan, path)
    with StreamedFile(path) as file, progress.task("merge", plan.nbytes, "B") as task:
        file.write(front)
        due = 0
        for tensor, data in encoded(plan.tensors, _encoder(plan), plan.adapter_files):
            file.write(data)
            task.advance(len(data), tensor.name)
            due = (due or tensor.nbytes) - len(data)
            if due == 0:
                file.write(bytes(-file.size % ALIGNMENT))
    return file.sha256


def _front(plan: MergePlan, path: Path) -> bytes:
    """Everything before the tensors' bytes."""
    from gguf import GGUFWriter

    writer = GGUFWriter(None, architecture_of(plan.request.base).name)
    _announce(writer, plan)
    _write_fields(writer, plan)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    front = path.read_bytes()
    path.unlink()
    return front + bytes(-len(front) % ALIGNMENT)


def _encoder(plan: MergePlan) -> Callable[[PlannedTensor, int, int], memoryview]:
    through_base_type = plan.request.precision == "compat"

    def encode_block(tensor: PlannedTensor, start: int, stop: int) -> memoryview:
        stored = tensor.stored(start, stop)
        if stored is not None:
            return stored
        folded = tensor.output.folded
        rounding = through(folded.dtype) if through_base_type and folded else None
        return encode(tensor.output.block(start, stop, rounding), tensor.dtype, tensor.name)

    return encode_block


def through(dtype: str) -> Callable[[Float32], Float32]:
    """Round to `dtype` and back."""

    def rounding(values: Float32) -> Float32:
        rounded = to_float32(from_float32(values, dtype), dtype)
        return rounded.reshape(values.shape)

    return rounding


def _announce(writer: GGUFWriter, plan: MergePlan) -> None:
    from gguf import GGMLQuantizationType

    for tensor in plan.tensors:
        # the type given here only says that `shape` counts elements, not bytes
        kind, raw = np.dtype(np.float32), GGMLQuantizationType[tensor.dtype]
        writer.add_tensor_info(tensor.name, tensor.shape, kind, tensor.nbytes, raw_dtype=raw)


def _write_fields(writer: GGUFWriter, plan: MergePlan) -> None:
    request = plan.request
    base_name = request.base_name or request.base.folder.name
    write_general(writer, request.base, base_name, plan.name, plan.tensors, plan.alpha is not None)
    if plan.alpha is None:
        _write_model(writer, plan)
    else:
        write_adapter_fields(writer, plan.alpha)
    write_provenance(writer, plan.record())
    if request.verify:
        reserve(writer)


def _write_model(writer: GGUFWriter, plan: MergePlan) -> None:
    """Hyperparameters and tokenizer."""
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    base = plan.request.base
    rows = next(tensor.shape[0] for tensor in plan.tensors if tensor.name == EMBEDDINGS)
    file_type = LlamaFileType[FILE_TYPES[plan.request.quant or "f16"]]
    architecture_of(base).describe(writer, base, file_type, rows)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    write_tokenizer(writer, base, rows, plan.name, plan.chat_template)
