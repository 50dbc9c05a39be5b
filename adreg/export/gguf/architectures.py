"""Which architectures adreg writes as GGUF; any other is refused by name."""

from __future__ import annotations

from adreg.errors import UnsupportedError
from adreg.export.gguf.architecture import Architecture
from adreg.export.gguf.gemma import GEMMA, GEMMA2, GEMMA3
from adreg.export.gguf.gpt2 import GPT2
from adreg.export.gguf.llama import INDEX, LLAMA
from adreg.export.gguf.phi3 import PHI3
from adreg.export.gguf.qwen import QWEN2, QWEN3
from adreg.formats.bases.checkpoint import Checkpoint

ARCHITECTURES = {
    "Gemma2ForCausalLM": GEMMA2,
    "Gemma3ForCausalLM": GEMMA3,
    "Gemma3ForConditionalGeneration": GEMMA3,
    "GemmaForCausalLM": GEMMA,
    "GPT2LMHeadModel": GPT2,
    "IndexForCausalLM": INDEX,
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "Phi3ForCausalLM": PHI3,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
}


def architecture_of(base: Checkpoint) -> Architecture:
    """How to write `base`. Raises `UnsupportedError` for an architecture without a writer here."""
    known = ARCHITECTURES.get(base.architecture)
    if known is None:
        way_out = "use --to safetensors, and convert that folder with llama.cpp's convert_hf_to_gguf.py"
        raise UnsupportedError(f"GGUF for {base.architecture}", way_out)
    return known
