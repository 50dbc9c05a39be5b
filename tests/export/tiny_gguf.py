"""GGUF files of a few kilobytes with every field that Ollama looks at, and no sense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFType, GGUFWriter, LlamaFileType

TOKENS = ["<unk>", "<|im_end|>", "<|eot|>", "a"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OTHER_TEMPLATE = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"


def write_model(path: Path, template: str | None = OTHER_TEMPLATE, seed: int = 0) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_type(GGUFType.MODEL)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_license("apache-2.0")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_eos_token_id(1)
    writer.add_eot_token_id(2)
    if template is not None:
        writer.add_chat_template(template)
    return _finish(writer, path, seed)


def write_lora(path: Path, architecture: str = "llama") -> Path:
    writer = GGUFWriter(path, architecture)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    return _finish(writer, path, 7)


def _finish(writer: GGUFWriter, path: Path, seed: int) -> Path:
    writer.add_tensor("token_embd.weight", np.random.default_rng(seed).random((40, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
