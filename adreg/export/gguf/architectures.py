"""Which architectures adreg writes as GGUF; any other is refused by name."""

from __future__ import annotations

from adreg.errors import UnsupportedError
from adreg.export.gguf.architecture import Architecture
from adreg.export.gguf.llama import LLAMA
from adreg.formats.bases.checkpoint import Checkpoint

ARCHITECTURES = {"LlamaForCausalLM": LLAMA}


def architecture_of(base: Checkpoint) -> Architecture:
    """How to write `base`. Raises `UnsupportedError` for an architecture without a writer here."""
    known = ARCHITECTURES.get(base.architecture)
    if known is None:
        way_out = "use --to safetensors, and convert that folder with llama.cpp's convert_hf_to_gguf.py"
        raise UnsupportedError(f"GGUF for {base.architecture}", way_out)
    return known
