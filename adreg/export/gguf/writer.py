"""Writes a planned GGUF file in one pass: fields first, then each tensor as a stream of merged and encoded blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from adreg.export.gguf.architectures import architecture_of
from adreg.export.gguf.llama import vocabulary_rows
from adreg.export.gguf.metadata import write_general, write_provenance
from adreg.export.gguf.tokenizer import write_tokenizer
from adreg.export.gguf.types import FILE_TYPES, encode
from adreg.export.plan import MergePlan
from adreg.export.tensors import PlannedTensor
from adreg.formats.dtypes import Float32, from_float32, to_float32
from adreg.progress import Progress, Task

if TYPE_CHECKING:
    from gguf import GGUFWriter


def write_gguf(plan: MergePlan, path: Path, progress: Progress) -> None:
    """Write the file that `plan` describes to `path`. Memory: a few blocks of one tensor, whatever the model's size."""
    from gguf import GGUFWriter

    writer = GGUFWriter(None, architecture_of(plan.request.base).name)
    _announce(writer, plan)
    _write_fields(writer, plan)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with progress.task("merge", plan.nbytes, "B") as task:
            for tensor in plan.tensors:
                writer.write_tensor_data(_Stream(tensor, plan.request.precision == "compat", task))
    finally:
        writer.close()


@dataclass(frozen=True)
class _Stream:
    """What GGUFWriter.write_tensor_data needs of an array: `nbytes` and `tofile`."""

    tensor: PlannedTensor
    through_base_type: bool
    task: Task

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def tofile(self, file: BinaryIO) -> None:
        for block in self._blocks():
            encoded = encode(block, self.tensor.dtype, self.tensor.name)
            file.write(encoded.data)
            self.task.advance(encoded.nbytes, self.tensor.name)

    def _blocks(self) -> Iterator[Float32]:
        output = self.tensor.output
        rounding = through(output.folded.dtype) if self.through_base_type and output.folded else None
        for start, stop in output.spans():
            yield output.block(start, stop, rounding)


def through(dtype: str) -> Callable[[Float32], Float32]:
    """Round to `dtype` and back."""

    def rounding(values: Float32) -> Float32:
        rounded = to_float32(memoryview(from_float32(values, dtype)), dtype)
        return rounded.reshape(values.shape)

    return rounding


def _announce(writer: GGUFWriter, plan: MergePlan) -> None:
    from gguf import GGMLQuantizationType

    for tensor in plan.tensors:
        # the type given here only says that `shape` counts elements, not bytes
        kind, raw = np.dtype(np.float32), GGMLQuantizationType[tensor.dtype]
        writer.add_tensor_info(tensor.name, tensor.shape, kind, tensor.nbytes, raw_dtype=raw)


def _write_fields(writer: GGUFWriter, plan: MergePlan) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    request = plan.request
    write_general(writer, request.base, request.base_name or request.base.folder.name, plan.name, plan.tensors)
    file_type = LlamaFileType[FILE_TYPES[request.quant or "f16"]]
    architecture_of(request.base).describe(writer, request.base, file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    write_tokenizer(writer, request.base, vocabulary_rows(request.base), plan.chat_template)
    write_provenance(writer, plan.record())
