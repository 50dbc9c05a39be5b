"""The numbers of a file's verification, inside the file: room is left for them, and they are filled in when it is proven."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adreg.formats.gguf.header import read_gguf

if TYPE_CHECKING:
    from gguf import GGUFWriter

PREFIX = "adreg.verify."
MEASURES = ("max_delta_logprob", "mean_delta_logprob", "mean_divergence", "top1_agreement")
COUNTS = ("positions", "lines", "tokenization_differences", "conversations", "template_differences")
FLOAT32, UINT32 = 6, 4


def reserve(writer: GGUFWriter) -> None:
    """Write the keys, each without its number."""
    for name in MEASURES:
        writer.add_float32(PREFIX + name, float("nan"))
    for name in COUNTS:
        writer.add_uint32(PREFIX + name, 0)


def stamp(path: Path, proof: Mapping[str, float | int]) -> None:
    """Put the numbers of `proof` into the file at `path`, which has room for them. Nothing else of it changes."""
    begin = min(view.offset for view in read_gguf(path).tensors.values())
    with path.open("r+b") as file:
        header = file.read(begin)
        for name in (*MEASURES, *COUNTS):
            kind, form = (FLOAT32, "<f") if name in MEASURES else (UINT32, "<I")
            key = (PREFIX + name).encode()
            entry = struct.pack("<Q", len(key)) + key + struct.pack("<I", kind)
            if header.count(entry) != 1:
                raise ValueError(f"{path} has no room for {PREFIX}{name}")
            file.seek(header.index(entry) + len(entry))
            file.write(struct.pack(form, proof[name]))
