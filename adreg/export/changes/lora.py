"""LoRA on linear layers, Conv1D, embeddings, output heads and single parameters; with DoRA, and with a bias."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.errors import UnsupportedError
from adreg.export.changes.change import Change
from adreg.export.changes.experts import experts_changes, is_experts
from adreg.export.changes.source import AdaptedModule
from adreg.export.changes.weights import TABLES
from adreg.export.fold.dora import DoraUpdate
from adreg.export.fold.lora import LoraUpdate
from adreg.export.fold.vectors import BiasUpdate
from adreg.formats.adapters.adapter import Adapter
from adreg.formats.adapters.config import AdapterConfig
from adreg.formats.canonical import canonical_name

SWITCHED = {"use_dora": "magnitude", "lora_bias": "lora_bias"}


def lora_changes(module: AdaptedModule) -> Iterator[Change]:
    """The changes of one module of a LoRA. Raises `FormatError` or `UnsupportedError` with its name."""
    adapter = module.source.adapter
    if not isinstance(adapter, Adapter):
        raise UnsupportedError(f"LoRA modules in {module.source.label}, which declares another family,")
    if module.name not in module.source.loras:
        raise module.source.refusal(f"lora_A and lora_B of {module.name!r} do not form a pair of matrices", "K-KEY-2")
    _check_switches(module)
    yield from experts_changes(module, adapter.config) if is_experts(module) else _layer_changes(module, adapter.config)


def _layer_changes(module: AdaptedModule, config: AdapterConfig) -> Iterator[Change]:
    source, lora, parameter = module.source, module.source.loras[module.name], f"{module.name}.weight"
    named = parameter if source.targets_parameter(parameter) else module.name
    if lora.rank != config.rank_of(named):
        raise source.refusal(f"{module.name!r} has rank {lora.rank}, which its configuration denies", "K-CFG-3")
    name, transposed = _place(module, named == parameter)
    factor, outputs = source.weight * config.scaling_of(named), lora.b.shape[0]
    update = LoraUpdate(lora, factor, source.label, transposed)
    if "magnitude" in module.parts:
        magnitude = module.shaped("magnitude", outputs)
        yield Change(name, source, DoraUpdate(update, magnitude, module.weights.view(name)))
    else:
        yield Change(name, source, update, additive=True)
    if "lora_bias" in module.parts:
        bias = BiasUpdate(module.shaped("lora_bias", outputs), factor, source.label)
        yield Change(module.tensor("bias"), source, bias, additive=True)


def _place(module: AdaptedModule, parameter: bool) -> tuple[str, bool]:
    """The name of the weight, and whether the update is to be transposed: PEFT takes a parameter as it is stored."""
    if "embedding_A" not in module.parts and not parameter:
        return module.linear()
    name = module.tensor()
    if not parameter and canonical_name(name) not in TABLES:
        raise module.source.refusal(f"adapts {module.name!r} as if it were an embedding", "B-SHP-2")
    module.fit(name, transposed=False)
    return name, not parameter


def _check_switches(module: AdaptedModule) -> None:
    """PEFT builds a layer by the configuration: a part that is switched on and missing would stay as initialised, and one
    that is switched off would be ignored."""
    for field, part in SWITCHED.items():
        wanted = bool(module.source.adapter.config.raw.get(field))
        if wanted != (part in module.parts):
            why = f"{'lacks' if wanted else 'has'} in {module.name!r} what {field} in its configuration is about"
            raise module.source.refusal(why, "K-CFG-8")
    if set(SWITCHED.values()) <= set(module.parts):
        raise UnsupportedError(f"merging {module.source.label}: DoRA with a bias, as on {module.name!r},")
