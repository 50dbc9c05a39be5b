"""What llama-quantize chose for models of several shapes, recorded in mixtures.json: `python -m tests.export.mixtures`
asks llama.cpp's own quantiser again (see quantiser.py) and writes the file anew."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adreg.export.gguf.mixture import DEFAULTS
from adreg.export.gguf.types import FILE_TYPES
from adreg.formats.gguf.header import read_gguf
from tests.builders import build_checkpoint, unpack_tokenizer

RECORD = Path(__file__).with_name("mixtures.json")
SMALL = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8, "vocab_size": 49152}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tied, 4 queries a key": ("llama", SMALL | {"num_hidden_layers": 17, "num_key_value_heads": 2}),
    "rows that do not divide": ("llama", {"hidden_size": 96, "intermediate_size": 168, "tie_word_embeddings": False}),
    "70B": ("llama", SMALL | {"num_hidden_layers": 80, "num_key_value_heads": 4, "tie_word_embeddings": False}),
    "fused attention, positions": ("gpt2", {"n_embd": 256, "n_layer": 32, "n_head": 4}),
    "fused attention and gate": ("phi3", SMALL | {"num_hidden_layers": 12, "num_key_value_heads": 2}),
}


def by_part(types: dict[str, str]) -> dict[str, str]:
    """The types by what tensors are called within their layer, as runs over the layers: `Q6_K*2 Q4_K*5`."""
    parts: dict[str, list[tuple[int, str]]] = {}
    for name, dtype in types.items():
        layer, _, part = name.removeprefix("blk.").partition(".") if name.startswith("blk.") else ("0", "", name)
        parts.setdefault(part, []).append((int(layer), dtype))
    runs = {part: groupby(dtype for _, dtype in sorted(found)) for part, found in parts.items()}
    return {part: " ".join(f"{dtype}*{len(list(run))}" for dtype, run in runs[part]) for part in sorted(runs)}


def main() -> None:
    from gguf import LlamaFileType

    from tests.export.merging import merge
    from tests.export.quantiser import quantise_file

    found: dict[str, dict[str, dict[str, str]]] = {}
    for model, (kind, config) in MODELS.items():
        with TemporaryDirectory() as place:
            folder, tokenizer = Path(place), Path(place) / "tokenizer"
            tokenizer.mkdir()
            base = build_checkpoint(folder / "base", kind, unpack_tokenizer(tokenizer), **config)
            given = merge(base, output=folder / "given.gguf", quant="f32").path
            for quant in DEFAULTS:
                output = quantise_file(given, folder / f"{quant}.gguf", int(LlamaFileType[FILE_TYPES[quant]]))
                types = {name: tensor.dtype for name, tensor in read_gguf(output).tensors.items()}
                found.setdefault(model, {})[quant] = by_part(types)
    RECORD.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
