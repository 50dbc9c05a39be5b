"""The key grammar of PEFT's LoRA files: `base_model.model.<module>.<part>`. Knows names, not tensors.

Source: peft/utils/save_and_load.py (0.21); the adapter's own name is not part of a saved key.
"""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "base_model.model."
PARTS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_embedding_A": "embedding_A",
    ".lora_embedding_B": "embedding_B",
    ".lora_B.bias": "lora_bias",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".token_adapter.trainable_tokens_delta": "token_delta",
}
BASE_COPY = ".base_layer.weight"


@dataclass(frozen=True)
class Key:
    """One key, read: the module in the base's own naming and the part of it that the tensor is."""

    raw: str
    module: str
    part: str


def parse_key(raw: str) -> Key | None:
    """`raw` as a key of the grammar, or None when it is no adapter parameter."""
    if not raw.startswith(PREFIX):
        return None
    name = raw.removeprefix(PREFIX)
    for suffix, part in PARTS.items():
        if name.endswith(suffix) and len(name) > len(suffix):
            return Key(raw, name.removesuffix(suffix), part)
    if name.endswith(BASE_COPY):
        return Key(raw, name.removesuffix(BASE_COPY), "base_copy")
    return None
