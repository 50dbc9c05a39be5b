"""LoRA on the stacked experts of a mixture of experts (`target_parameters`), stored stacked or one by one.

Source: transformers conversion_mapping.py for the names; peft tuners/lora/layer.py, `ParamWrapper`.
"""

from __future__ import annotations

from collections.abc import Iterator

from adreg.errors import UnsupportedError
from adreg.export.changes.change import Change
from adreg.export.changes.source import AdaptedModule
from adreg.export.fold.experts import ExpertsUpdate, split_updates
from adreg.formats.adapters.adapter import LoraModule
from adreg.formats.adapters.config import AdapterConfig

INNER = ".base_layer"
QWEN = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
# what each stacked parameter is made of in a checkpoint that stores the experts one by one
SPLIT = {
    "mixtral": {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)},
    "qwen2_moe": QWEN,
    "qwen3_moe": QWEN,
}


def is_experts(module: AdaptedModule) -> bool:
    """Whether the module is a stack of experts, or a wrapper that PEFT puts around one for each further parameter."""
    return _stack(module).rpartition(".")[2] == "experts"


def experts_changes(module: AdaptedModule, config: AdapterConfig) -> Iterator[Change]:
    """The changes of one stacked parameter. Raises `UnsupportedError` for a model whose experts adreg does not know."""
    source, weights, stack = module.source, module.weights, _stack(module)
    kinds = SPLIT.get(weights.base.model_type)
    if kinds is None:
        raise UnsupportedError(f"merging a LoRA on the experts of a {weights.base.model_type},")
    lora = source.loras[module.name]
    for parameter, parts in kinds.items():
        named = f"{stack}.{parameter}"
        if not source.targets_parameter(named):
            continue
        stored = weights.find(named)
        places = [] if stored else _places(module, stack, parts)
        experts = weights.view(stored).shape[0] if stored else len(places)
        if not experts or lora.rank != experts * config.rank_of(named):
            continue
        factor = source.weight * config.scaling_of(named)
        if stored and weights.view(stored).shape[1:] == (lora.b.shape[0], lora.a.shape[1]):
            yield Change(module.checked(stored), source, ExpertsUpdate(lora, experts, factor, source.label), additive=True)
            return
        if not stored and _fits(module, lora, places):
            for expert, part, update in split_updates(lora, experts, len(parts), factor, source.label):
                yield Change(module.checked(places[expert][part]), source, update, additive=True)
            return
    why = f"adapts {module.name!r} with A {lora.a.shape} and B {lora.b.shape}, which no stacked parameter of the base fits"
    raise source.refusal(why, "B-SHP-2")


def _stack(module: AdaptedModule) -> str:
    name = module.name
    while name.endswith(INNER):
        name = name.removesuffix(INNER)
    return name


def _places(module: AdaptedModule, stack: str, parts: tuple[str, ...]) -> list[list[str]]:
    """The base's names of the parts of every expert, in order."""
    found: list[list[str]] = []
    while True:
        names = [module.weights.find(f"{stack}.{len(found)}.{part}.weight") for part in parts]
        if not all(names):
            return found
        found.append([str(name) for name in names])


def _fits(module: AdaptedModule, lora: LoraModule, places: list[list[str]]) -> bool:
    """Whether the parts of every expert's matrix are together of the height of B, and of the width of A."""
    shapes = [[module.weights.view(name).shape for name in names] for names in places]
    height, odd = divmod(lora.b.shape[0], len(places[0]))
    return not odd and all(shape == (height, lora.a.shape[1]) for expert in shapes for shape in expert)
