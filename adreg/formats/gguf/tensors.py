"""What the tensors of a checkpoint are called in a GGUF file of it, and their shapes there. Source: gguf's tensor_mapping."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from adreg.errors import UnsupportedError

RENAMED = {"mistral": "llama", "mixtral": "llama", "gpt_neox": "gptneox", "phi": "phi2", "qwen2_moe": "qwen2moe",
           "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3", "gpt_bigcode": "starcoder", "cohere": "command-r"}  # fmt: skip
KINDS = (".weight", ".bias")


@dataclass(frozen=True)
class GgufTensors:
    """The architecture and the row-major shapes of tensors under their GGUF names, of the model called `name`."""

    name: str
    architecture: str
    shapes: Mapping[str, tuple[int, ...]]
    weights_id: str | None = None


def as_gguf(
    name: str, model_type: str, shapes: Mapping[str, tuple[int, ...]], conv1d: Collection[str], weights_id: str | None
) -> GgufTensors:
    """The checkpoint tensors `shapes` as a GGUF file would hold them. Raises `UnsupportedError` for another model type."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    wanted = RENAMED.get(model_type, model_type)
    kinds = {known: kind for kind, known in MODEL_ARCH_NAMES.items()}
    if wanted not in kinds:
        raise UnsupportedError(f"a GGUF file on a {model_type} model", "give the base as a GGUF file")
    names = get_tensor_name_map(kinds[wanted], 1 + max((block_of(tensor) for tensor in shapes), default=0))
    found = {}
    for tensor, shape in shapes.items():
        stored = names.get_name(tensor, try_suffixes=KINDS)
        if stored is not None:
            found[stored] = tuple(reversed(shape)) if tensor.removesuffix(".weight") in conv1d else shape
    return GgufTensors(name, wanted, found, weights_id)


def block_of(tensor: str) -> int:
    """The number of the layer that `tensor` belongs to, -1 for none."""
    numbers = re.findall(r"\.(\d+)\.", f".{tensor}.")
    return int(numbers[0]) if numbers and len(numbers[0]) < 5 else -1


def names_of(architecture: str) -> re.Pattern[str] | None:
    """An expression for every tensor name that `architecture` may have; None for one that this gguf does not know."""
    from gguf import MODEL_ARCH_NAMES, MODEL_TENSORS, TENSOR_NAMES

    kind = next((kind for kind, known in MODEL_ARCH_NAMES.items() if known == architecture), None)
    if kind is None:
        return None
    stems = [
        re.escape(TENSOR_NAMES[tensor]).replace(r"\{bid\}", r"\d+").replace(r"\{xid\}", r"\d+")
        for tensor in MODEL_TENSORS[kind]
    ]
    return re.compile(rf"({'|'.join(stems)})(\.(weight|bias|scale|input_scale))?")
